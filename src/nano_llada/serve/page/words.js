// Every text of the interface, in both languages. A missing one is a failed test.

export const WORDS = {
  // frame of the page
  title: ["nano-llada studio", "nano-llada 工作室"],
  skip: ["Skip to the content", "跳到正文"],
  nav: ["Views", "视图"],
  chat: ["Chat", "对话"],
  race: ["Race", "竞速"],
  fill: ["Fill gaps", "填空"],
  templates: ["Templates", "模板"],
  open: ["Replay", "回放"],
  model: ["Model", "模型"],
  language: ["中文", "English"],
  language_label: ["中文：switch to Chinese", "English：切换到英文"],
  theme: ["Light or dark", "浅色或深色"],
  keys: ["Server key", "服务器密钥"],
  shortcuts: ["Keyboard shortcuts", "键盘快捷键"],
  decoding: ["How it writes", "书写方式"],
  close: ["Close", "关闭"],
  // chat
  welcome: ["Watch a language model write.", "看语言模型如何写作。"],
  welcome_text: [
    "A diffusion model fills a whole canvas of masks at once and may change its mind. Ask something, then move through every pass.",
    "扩散模型同时填写整块掩码画布，还会修改自己写过的内容。提个问题，然后逐步回看每一次前向计算。",
  ],
  examples: ["Examples", "示例"],
  example_1: ["Tell me a short story about a girl and a lost kite.", "讲一个女孩和丢失的风筝的小故事。"],
  example_2: ["Repeat: red fox, blue sky, old oak.", "重复：红狐狸，蓝天空，老橡树。"],
  example_3: ["Tom has a ball. He gives it to Mia. Who has the ball?", "汤姆有一个球。他把球给了米娅。球在谁那里？"],
  example_1_head: ["A story", "讲故事"],
  example_2_head: ["In parallel", "并行书写"],
  example_3_head: ["A question", "回答问题"],
  prompt: ["Your message", "你的消息"],
  prompt_hint: ["Ask something …", "说点什么……"],
  send: ["Send", "发送"],
  stop: ["Stop", "停止"],
  stopped: ["Stopped.", "已停止。"],
  clear: ["New chat", "新对话"],
  you: ["You", "你"],
  answered: ["{model} has answered: {text}", "{model} 的回答：{text}"],
  conversation: ["Conversation", "对话记录"],
  coherent: ["Coherent: no contradiction found", "前后一致：没有发现矛盾"],
  contradiction: ["Contradiction in sentence {n}", "第 {n} 句有矛盾"],
  not_understood: ["Not checked: the verifier does not know these words", "未检查：校验器不认识其中的词"],
  // player
  player: ["Replay of this text", "这段文字的回放"],
  controls: ["Playback", "播放控制"],
  play: ["Play", "播放"],
  pause: ["Pause", "暂停"],
  step_back: ["One pass back", "后退一步"],
  step_forward: ["One pass forward", "前进一步"],
  pass: ["Pass", "步"],
  pass_of: ["pass {pass} of {passes}", "第 {pass} 步，共 {passes} 步"],
  text_at: ["Text at", "文字："],
  speed: ["Speed", "速度"],
  save: ["Save", "保存"],
  save_json: ["Trace (JSON)", "记录（JSON）"],
  save_html: ["Replay (HTML)", "回放（HTML）"],
  save_gif: ["Moving picture (GIF)", "动图（GIF）"],
  save_failed: ["The file could not be made.", "无法生成文件。"],
  gif_working: ["Drawing …", "正在绘制……"],
  one_token: ["1 token", "1 个 token"],
  one_pass: ["1 pass", "1 步"],
  one_edit: ["1 edit", "1 处修改"],
  n_tokens: ["{n} tokens", "{n} 个 token"],
  n_passes: ["{n} passes", "{n} 步"],
  per_pass: ["{n} tokens per pass", "每步 {n} 个 token"],
  per_second: ["{n} tokens/s", "每秒 {n} 个 token"],
  n_edits: ["{n} edits", "{n} 处修改"],
  legend: ["Legend", "图例"],
  legend_confidence: ["how sure:", "把握："],
  legend_mask: ["mask", "掩码"],
  legend_edited: ["edited", "改过"],
  confident: ["{percent} sure", "把握 {percent}"],
  not_measured: ["not measured", "未测量"],
  at_pass: ["pass {pass}", "第 {pass} 步"],
  was: ["was {text} (pass {pass})", "原为 {text}（第 {pass} 步）"],
  // race
  race_head: ["Same prompt, different ways to write", "同一个提示，不同的写法"],
  race_text: [
    "Each lane runs alone, one after another, so that none slows another down. Then all are replayed against one clock.",
    "每条赛道依次单独运行，互不影响；随后用同一个时钟同步回放。",
  ],
  start_race: ["Start the race", "开始竞速"],
  lane: ["Lane {n}", "赛道 {n}"],
  add_lane: ["Add a lane", "增加赛道"],
  remove_lane: ["Remove lane {n}", "移除赛道 {n}"],
  clock: ["Clock", "时钟"],
  clock_at: ["{now} of {all} s", "{now} / {all} 秒"],
  slowed: ["Slowed down {n} times", "放慢 {n} 倍"],
  true_speed: ["At true speed", "真实速度"],
  result: ["Result", "结果"],
  col_model: ["model", "模型"],
  col_tokens: ["tokens", "token"],
  col_passes: ["passes", "步数"],
  col_per_pass: ["tokens/pass", "token/步"],
  col_seconds: ["seconds", "秒"],
  col_rate: ["tokens/s", "token/秒"],
  col_first: ["first, ms", "首词，毫秒"],
  measured: [
    "Measured in this browser from sending the request to the last token, reading the prompt and the connection included.",
    "由本浏览器测量：从发送请求到最后一个 token，包括读取提示和网络传输的时间。",
  ],
  race_running: ["{model} is writing …", "{model} 正在书写……"],
  race_done: ["The race is over.", "竞速结束。"],
  // fill and templates
  fill_head: ["Take words out, let the model put words in", "挖掉文字，让模型填上"],
  fill_text: [
    "Write a text, select a part of it and make it a gap. The model sees both sides.",
    "写一段文字，选中其中一部分变成空格。模型能同时看到两边。",
  ],
  fill_label: ["Text with gaps", "带空格的文字"],
  fill_example: ["Mia went to the park. She saw a small dog under a tree. The dog was happy.", "米娅去了公园。她看见树下有一只小狗。小狗很高兴。"],
  gap_length: ["Length in tokens", "长度（token）"],
  make_gap: ["Turn the selection into a gap", "把选中部分变成空格"],
  gap: ["Gap {n}: tokens", "空格 {n}：token 数"],
  no_gap: ["There is no gap yet: select some text and turn it into a gap.", "还没有空格：先选中一段文字，再把它变成空格。"],
  no_selection: ["Nothing is selected: mark the words that are to become a gap.", "没有选中文字：先标出要变成空格的部分。"],
  fill_run: ["Fill the gaps", "填空"],
  no_infill: ["None of the models of this server fills gaps. Gaps need a model with full attention, such as LLaDA 1.0, or one that learnt to fill them.", "此服务器上没有能填空的模型。填空需要全注意力模型（例如 LLaDA 1.0），或专门学过填空的模型。"],
  other_model: ["{model} writes: the chosen model does not fill gaps.", "由 {model} 书写：所选模型不能填空。"],
  filled: ["Filled: {text}", "已填好：{text}"],
  templates_head: ["A form for the model to complete", "让模型填写的表格"],
  templates_text: ["What is printed stays. Every box is a gap; its number is the length in tokens.", "印出的文字保持不变。每个方框是一个空格，数字是 token 长度。"],
  template_choose: ["Choose a template", "选择模板"],
  template_run: ["Write", "书写"],
  template_story: ["Story frame", "故事框架"],
  template_letter: ["Short letter", "短信"],
  template_card: ["Profile card", "人物卡片"],
  template_report: ["Weather report", "天气预报"],
  // open
  open_head: ["Look at a saved text again", "回看保存的文字"],
  open_text: [
    "Drop a trace file here, or choose one. It stays on this computer: nothing is sent.",
    "把记录文件拖到这里，或者选择一个文件。文件只留在本机，不会发送。",
  ],
  open_choose: ["Choose a file", "选择文件"],
  opened: ["{file}: {n} passes", "{file}：{n} 步"],
  replay_of: ["Replay", "回放"],
  trace_json: ["This file is not JSON, so it is no trace.", "此文件不是 JSON，所以不是记录文件。"],
  trace_other: ['This file is not a trace: "format" is not "nano-llada-trace".', "此文件不是记录文件：“format” 不是 “nano-llada-trace”。"],
  trace_version: ["This trace has version {version}; this page reads version {known}. Use the nano-llada that wrote it, or a newer one.", "此记录的版本是 {version}，本页面能读版本 {known}。请使用写出它的 nano-llada 或更新的版本。"],
  trace_wrong: ["This trace is damaged: {where} should be {expected}.", "此记录已损坏：{where} 应为 {expected}。"],
  trace_large: ["This trace is too large: {where} more than {most}.", "此记录太大：{where} 超过 {most}。"],
  trace_unread: ["This file could not be read.", "无法读取此文件。"],
  // decoding
  presets: ["Presets", "预设"],
  quality: ["Quality", "质量"],
  balanced: ["Balanced", "均衡"],
  fast: ["Fast", "快速"],
  set_max_tokens: ["Length", "长度"],
  set_temperature: ["Temperature", "温度"],
  set_threshold: ["Threshold", "阈值"],
  set_edit_threshold: ["Edit threshold", "修改阈值"],
  set_block_size: ["Block size", "块大小"],
  set_block_length: ["Block length", "块长度"],
  set_steps: ["Steps", "步数"],
  set_drafts: ["Drafted tokens (k)", "草稿 token（k）"],
  mode: ["Mode", "模式"],
  hint_max_tokens: ["most tokens of an answer", "回答最多的 token 数"],
  hint_temperature: ["0: always the likeliest token", "0：总取最可能的 token"],
  hint_threshold: ["lower: more tokens per pass, more mistakes", "越低：每步写得越多，错误也越多"],
  hint_edit_threshold: ["lower: more is changed afterwards", "越低：事后修改越多"],
  hint_block_size: ["tokens that are written together", "同时书写的 token 数"],
  hint_block_length: ["tokens that are written together", "同时书写的 token 数"],
  hint_steps: ["passes for the whole canvas", "整块画布的步数"],
  hint_drafts: ["the same text; fewer passes where drafts are right", "文字不变；草稿对时步数更少"],
  automatic: ["default", "默认"],
  reset: ["Back to the defaults", "恢复默认"],
  kind_ar: ["left to right", "从左到右"],
  kind_canvas: ["whole canvas", "整块画布"],
  kind_block: ["block by block", "逐块"],
  kind_editing: ["blocks, with edits", "逐块并修改"],
  kind_speculative: ["self-speculation", "自我推测"],
  kind_tri: ["three modes", "三种模式"],
  about_model: ["{kind} · {size}", "{kind} · {size}"],
  // trouble
  gone: ["The server does not answer.", "服务器没有响应。"],
  gone_text: ["Start it with `nano-llada serve`, then try again. Saved traces still open under Replay.", "用 `nano-llada serve` 启动它，然后重试。保存的记录仍可在“回放”中打开。"],
  retry: ["Try again", "重试"],
  wrong_key: ["The server wants a key, and this one is not it.", "服务器需要密钥，当前密钥不正确。"],
  no_key: ["The server wants a key.", "服务器需要密钥。"],
  key_text: ["Whoever runs the server has it. It is kept in this tab only.", "请向服务器的管理者索取。密钥只保存在本标签页中。"],
  enter_key: ["Enter the key", "输入密钥"],
  use_key: ["Use this key", "使用此密钥"],
  busy: ["The server has too much to do. Try again in {n} s.", "服务器繁忙，请在 {n} 秒后重试。"],
  refused: ["The server refused: {message}", "服务器拒绝了请求：{message}"],
  failed: ["This page made a mistake: {message}", "页面出错：{message}"],
  unfinished: ["Not finished.", "未完成。"],
  // keyboard
  key_send: ["send", "发送"],
  key_line: ["new line", "换行"],
  key_views: ["views", "切换视图"],
  key_prompt: ["to the prompt", "到输入框"],
  key_play: ["play or pause", "播放或暂停"],
  key_step: ["one pass back or forward; token by token inside a text", "前后一步；在文字内逐 token 移动"],
  key_ends: ["first or last pass", "第一步或最后一步"],
  key_gap: ["turn the selection into a gap", "把选中部分变成空格"],
  key_stop: ["stop writing, close", "停止书写，关闭"],
  key_help: ["this list", "本列表"],
};

const LANGUAGES = ["en", "zh"];
let language = "en";

export const getLanguage = () => language;

/** Use a language from now on; gives whether it is one of ours. */
export function setLanguage(name) {
  language = LANGUAGES.includes(name) ? name : "en";
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
}

/** The language that the browser asks for. */
export const preferred = () => ((navigator.languages ?? ["en"])[0] ?? "en").toLowerCase().startsWith("zh") ? "zh" : "en";

/** A text of the interface, with `{name}` replaced. It is text, never HTML. */
export function t(key, values = {}) {
  const text = WORDS[key][LANGUAGES.indexOf(language)];
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** Fill elements with `data-word` (text) and `data-label` (name for screen readers and tooltip). */
export function translate(root = document) {
  for (const node of root.querySelectorAll("[data-word]")) node.textContent = t(node.dataset.word);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", t(node.dataset.label));
    if (node.tagName === "BUTTON") node.title = t(node.dataset.label);
  }
  for (const node of root.querySelectorAll("[data-hint]")) node.placeholder = t(node.dataset.hint);
}
