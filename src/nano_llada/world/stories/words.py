"""The Chinese words that a tokenizer for the stories keeps whole."""

from __future__ import annotations

from nano_llada.world.stories import lexicon

# Words of the sentence forms and of small talk, and the commonest words of ordinary text.
COMMON = """
一个 朋友 好朋友 故事 来到 一起 什么 特别 心里 东西 帮助 感谢 一直 没有 地方 告诉 看见 野餐 不远 生日 草地 一个人 非常 天天
跑到 走到 这个 那个 学会 找到 真是 怎么 到处 天上 种子 每天 失望 旁边 练习 自己 难过 答应 事情 发现 连声 再三 一点儿 心地 善良
好奇 为什么 害羞 细心 活泼 好动 粗心 丢三落四 笑着 耐心 认真 开始 今年 外面 里面 下面 后面 上面 不见 不小心 手拉手 有说有笑
一整天 大家 路上 一路上 借给 送给 还给 交给 递给 分给 还有 刚刚 刚满 很快 紧紧 想要 膝盖 分享 好像 原谅 对不起 没关系 谢谢 你好
请问 晚安 再见 可以 能够 愿意 决定 打算 计划 准备 礼物 特别 礼品 零花钱 集市 橱窗 小摊 整整 星期 硬币 竹竿 梯子 树枝 够不着
生病 感冒 出门 看望 觉得 好多了 埋进 土里 浇水 发芽 开花 美丽 等待 数数 躲在 搬到 认识 好玩 比赛 跑步 输赢 终点 明白 懂得 微笑
美梦 永远 难忘 最后 终于 到了最后 然后 接着 随后 于是 所以 因为 可是 但是 不过 突然 忽然 就在这时 这时 过了一会儿 后来 不久 幸好
还好 可惜 不巧的是 从前 很久以前 以前 有一天 一天 第二天 那天 这天 早上 早晨 上午 下午 傍晚 晚上 夜里 晴朗 阴沉沉 刮着风 下着雨 下雨
刮风 下雪 晴天 阴天 天气 太阳 乌云 雨点 大风 雪花 彩虹 天空 小鸟 鸟儿 唱歌 空气 花香 到处 安静 热闹 人来人往 奇怪 声音 沙沙 勇气
鼓起 屏住 呼吸 悄悄 原来 一看 看了看 肚子 咕咕叫 饿坏了 两半 一半 修好 弄坏 摔坏 摔倒 绊倒 弄丢 实话 诚实 勇敢 可怕 放弃 成功 本领
友情 玩具 重要 保管 好好 爱护 说话算数 捉迷藏 游戏 纸牌 屋里 窗边 待在 画画 讲故事 拥抱 抱住 挥了挥手 打了个招呼 喊道 点点头 摇摇头
低着头 别着急 别担心 没问题 当然 好呀 对吧 这样 那样 这里 那里 哪里 怎么样 多少 时候 现在 今天 明天 昨天 知道 问题 回答 句话 句子
一句话 概括 总结 续写 英语 中文 翻译 语言 模型 程序 电脑 喜欢 高兴 开心 快乐 伤心 担心 着急 生气 害怕 惊讶 吃惊 自豪 骄傲 孤单 寂寞
兴奋 激动 惭愧 无聊 感激 我们 你们 他们 她们 它们 人们 自己 别人 这些 那些 有些 可能 应该 需要 必须 如果 虽然 而且 或者 还是 已经 曾经
正在 就是 只有 只是 不能 不会 不是 不要 不用 就要 工作 生活 世界 国家 社会 中国 学生 老师 学习 孩子 男孩 女孩 小朋友 爸爸 妈妈 爷爷 奶奶
叔叔 阿姨 哥哥 姐姐 弟弟 妹妹 房子 屋子 门口 街上 城市 村庄 小镇 动物 植物 水果 颜色 名字 名叫 叫做 年龄 数学 数字 左边 右边 东边 西边
南边 北边 星期一 星期二 星期三 星期四 星期五 星期六 星期日 开心地 高兴地 慢慢 常常 经常 总是 从来 一定 一样 一些 一下 一次 第一 第二 第三
""".split()


def chinese_words() -> list[str]:
    """Every Chinese word to keep whole, longest first."""
    words: set[str] = set(COMMON)
    words |= {person.zh for person in lexicon.people().values()}
    words |= {person.kind_zh for person in lexicon.people().values() if person.kind_zh}
    words |= {thing.zh for thing in lexicon.things().values()}
    words |= {word.zh for word in lexicon.ADJECTIVES.values()}
    words |= {place.zh for place in lexicon.PLACES.values()} | set(lexicon.NEAR_ZH.values())
    words |= {word.zh for word in (*lexicon.SPOTS.values(), *lexicon.SKILLS.values())}
    return sorted((word for word in words if len(word) > 1), key=lambda word: (-len(word), word))
