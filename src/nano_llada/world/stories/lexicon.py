"""The cast, things and places of the stories, each with its English and its Chinese words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from nano_llada.world.splits import Language

Sex = Literal["f", "m"]


@dataclass(frozen=True, slots=True)
class Person:
    """A child, a talking animal or a grown-up. `kind_en` and `kind_zh` say what the person is; `measure` counts it."""

    en: str
    zh: str
    sex: Sex
    group: Literal["child", "animal", "adult"]
    kind_en: str = ""
    kind_zh: str = ""
    measure: str = "个"


@dataclass(frozen=True, slots=True)
class Thing:
    """A noun for something that can be carried: toys are played with, food is eaten, adjectives suit its tags."""

    en: str
    zh: str
    measure: str
    tags: str


@dataclass(frozen=True, slots=True)
class Place:
    """A place: its English preposition and, in Chinese, the locative that follows it (in the park, 公园里)."""

    en: str
    zh: str
    at_en: str
    at_zh: str
    indoors: bool = False


@dataclass(frozen=True, slots=True)
class Word:
    """A word or phrase in both languages; `forms` holds further English forms or synonyms by name."""

    en: str
    zh: str
    ing: str = ""
    tags: str = ""


def _children() -> list[Person]:
    girls = (
        "Lily:莉莉 Amy:艾米 Anna:安娜 Mei:小美 Emma:艾玛 Lucy:露西 Rose:萝丝 Ling:玲玲 Fang:芳芳 Yan:小燕 "
        "Sara:莎拉 Ella:艾拉"
    )
    boys = (
        "Tom:汤姆 Sam:山姆 Jack:杰克 Max:麦克斯 Ming:小明 Leo:里奥 Jun:小军 Hao:浩浩 Lei:磊磊 Danny:丹尼 "
        "Peter:彼得 Tao:涛涛"
    )
    names = [(*entry.split(":"), "f") for entry in girls.split()] + [(*entry.split(":"), "m") for entry in boys.split()]
    return [
        Person(en, zh, "f" if sex == "f" else "m", "child", *(("girl", "女孩") if sex == "f" else ("boy", "男孩")))
        for en, zh, sex in names
    ]


def _animals() -> list[Person]:
    table = (
        "Pip:皮皮:m:rabbit:小兔子 Lulu:露露:f:rabbit:小兔子 Bobo:波波:m:bear:小熊 Momo:毛毛:f:bear:小熊 "
        "Coco:可可:f:fox:小狐狸 Rusty:阿红:m:fox:小狐狸 Kiki:奇奇:m:squirrel:小松鼠 Nutty:果果:f:squirrel:小松鼠 "
        "Dodo:多多:m:duck:小鸭子 Fifi:菲菲:f:duck:小鸭子 Spike:刺刺:m:hedgehog:小刺猬 Toto:团团:f:hedgehog:小刺猬 "
        "Mimi:咪咪:f:cat:小猫 Tiger:虎虎:m:cat:小猫 Hoppy:跳跳:m:frog:小青蛙 Dot:点点:f:mouse:小老鼠"
    )
    rows = [entry.split(":") for entry in table.split()]
    return [Person(en, zh, "f" if sex == "f" else "m", "animal", kind, noun, "只") for en, zh, sex, kind, noun in rows]


def _adults() -> list[Person]:
    table = (
        "Grandma:奶奶:f Grandpa:爷爷:m Mom:妈妈:f Dad:爸爸:m Miss_Li:李老师:f Uncle_Wang:王叔叔:m Aunt_Chen:陈阿姨:f "
        "Uncle_Zhao:赵叔叔:m Old_Owl:猫头鹰爷爷:m Old_Turtle:乌龟爷爷:m Mother_Goose:鹅妈妈:f Aunt_Cow:牛阿姨:f"
    )
    rows = [entry.replace("_", " ").split(":") for entry in table.split()]
    return [Person(en, zh, "f" if sex == "f" else "m", "adult") for en, zh, sex in rows]


def _things() -> list[Thing]:
    table = (
        "kite:风筝:只:toy ball:皮球:个:toy doll:布娃娃:个:toy toy_car:玩具车:辆:toy toy_boat:玩具船:艘:toy "
        "drum:鼓:面:toy "
        "yo-yo:悠悠球:个:toy spinning_top:陀螺:个:toy puppet:木偶:个:toy toy_train:玩具火车:列:toy "
        "teddy:玩具熊:只:toy "
        "balloon:气球:个:toy,soft jump_rope:跳绳:根:toy scarf:围巾:条:wear,soft hat:帽子:顶:wear,soft "
        "umbrella:雨伞:把:tool "
        "basket:篮子:个:tool picture_book:图画书:本:tool lantern:灯笼:盏:tool key:钥匙:把:hard cup:杯子:个:hard "
        "bell:铃铛:个:hard shell:贝壳:枚:hard,nature pen:钢笔:支:hard box:盒子:个:hard flute:笛子:支:hard "
        "watch:手表:块:hard coat:外套:件:wear,soft backpack:书包:个:tool mirror:镜子:面:hard necklace:项链:条:hard "
        "glove:手套:只:wear,soft notebook:笔记本:个:tool stone:石头:块:hard,nature feather:羽毛:根:nature "
        "apple:苹果:个:food pear:梨:个:food cookie:饼干:块:food bun:包子:个:food peach:桃子:个:food "
        "sandwich:三明治:个:food pancake:煎饼:张:food carrot:胡萝卜:根:food sweet_potato:红薯:个:food"
    )
    rows = [entry.replace("_", " ").split(":") for entry in table.split()]
    return [Thing(*row) for row in rows]


ADJECTIVES = {
    word.en: word
    for word in (
        Word("red", "红色的", tags="any"),
        Word("blue", "蓝色的", tags="any"),
        Word("green", "绿色的", tags="any"),
        Word("yellow", "黄色的", tags="any"),
        Word("white", "白色的", tags="any,nature"),
        Word("purple", "紫色的", tags="any"),
        Word("pink", "粉色的", tags="any"),
        Word("orange", "橙色的", tags="any"),
        Word("grey", "灰色的", tags="hard,soft,nature"),
        Word("new", "新", tags="any"),
        Word("old", "旧", tags="any"),
        Word("big", "大", tags="toy,tool,food"),
        Word("small", "小", tags="toy,tool,hard,food,nature"),
        Word("shiny", "亮晶晶的", tags="hard"),
        Word("striped", "带条纹的", tags="soft"),
        Word("pretty", "漂亮的", tags="any,nature"),
        Word("sweet", "香甜的", tags="food"),
        Word("round", "圆圆的", tags="food,nature"),
    )
}
PLACES = {
    place.en: place
    for place in (
        Place("park", "公园", "in", "里"),
        Place("forest", "树林", "in", "里"),
        Place("river", "河边", "by", ""),
        Place("hill", "山坡", "on", "上"),
        Place("garden", "花园", "in", "里"),
        Place("school", "学校", "at", "里", True),
        Place("market", "集市", "at", "上"),
        Place("library", "图书馆", "in", "里", True),
        Place("beach", "海滩", "on", "上"),
        Place("farm", "农场", "on", "里"),
        Place("pond", "池塘边", "by", ""),
        Place("playground", "操场", "at", "上"),
        Place("bridge", "小桥边", "by", ""),
        Place("meadow", "草地", "in", "上"),
        Place("square", "广场", "in", "上"),
        Place("orchard", "果园", "in", "里"),
    )
}
SPOTS = {
    word.en: word
    for word in (
        Word("under a bench", "长椅下面", tags="out"),
        Word("behind a big tree", "大树后面", tags="out"),
        Word("in the tall grass", "草丛里", tags="out"),
        Word("beside a rock", "大石块旁边", tags="out"),
        Word("under some leaves", "落叶下面", tags="out"),
        Word("behind a bush", "灌木丛后面", tags="out"),
        Word("next to the fence", "篱笆旁边", tags="out"),
        Word("on a low branch", "矮树枝上", tags="out"),
        Word("beside the path", "小路旁边", tags="out"),
        Word("under a table", "桌子底下", tags="in"),
        Word("behind the door", "门后面", tags="in"),
        Word("on a shelf", "架子上", tags="in"),
        Word("in a corner", "角落里", tags="in"),
        Word("by the window", "窗户旁边", tags="in"),
        Word("under a chair", "椅子下面", tags="in"),
    )
}
SKILLS = {
    word.en: word
    for word in (
        Word("swim", "游泳", "swimming", "river,pond,beach"),
        Word("ride a bike", "骑自行车", "riding a bike", "park,playground,square"),
        Word("skate", "滑冰", "skating", "park,playground,square"),
        Word("draw", "画画", "drawing", "garden,school,hill,meadow"),
        Word("dance", "跳舞", "dancing", "meadow,school,square,garden"),
        Word("sing", "唱歌", "singing", "forest,school,meadow,hill"),
        Word("climb trees", "爬树", "climbing trees", "forest,orchard,park"),
        Word("whistle", "吹口哨", "whistling", "forest,meadow,hill,bridge"),
        Word("juggle", "玩杂耍", "juggling", "square,park,playground"),
        Word("fish", "钓鱼", "fishing", "river,pond,bridge"),
        Word("do handstands", "倒立", "doing handstands", "playground,meadow,park"),
    )
}
# The first word of each language is the reference; the others are synonyms.
FEELINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "happy": (("happy", "glad", "delighted"), ("高兴", "开心", "快乐")),
    "sad": (("sad", "unhappy"), ("难过", "伤心")),
    "worried": (("worried", "anxious"), ("担心", "着急")),
    "angry": (("angry", "cross"), ("生气",)),
    "afraid": (("afraid", "scared", "frightened"), ("害怕",)),
    "surprised": (("surprised", "amazed"), ("惊讶", "吃惊")),
    "proud": (("proud",), ("自豪", "骄傲")),
    "tired": (("tired",), ("累",)),
    "lonely": (("lonely",), ("孤单", "寂寞")),
    "excited": (("excited",), ("兴奋", "激动")),
    "ashamed": (("ashamed",), ("惭愧",)),
    "bored": (("bored",), ("无聊",)),
    "curious": (("curious",), ("好奇",)),
    "grateful": (("grateful", "thankful"), ("感激",)),
    "disappointed": (("disappointed",), ("失望",)),
}
# What a place is called when something is near it, where its name already means its bank.
NEAR_ZH = {"河边": "小河", "小桥边": "小桥", "池塘边": "池塘"}
NUMBERS = {"five": "五", "six": "六", "seven": "七", "eight": "八", "nine": "九", "ten": "十"}
PARTS = ("morning", "afternoon", "evening")
PARTS_ZH = {"morning": ("早上", "早晨", "上午"), "afternoon": ("下午",), "evening": ("傍晚", "晚上")}
WEATHERS = ("sunny", "rainy", "windy", "snowy", "cloudy")


@cache
def people() -> dict[str, Person]:
    """Everybody by English name, the identifier used in events."""
    return {person.en: person for person in (*_children(), *_animals(), *_adults())}


@cache
def things() -> dict[str, Thing]:
    """All nouns for things by their English word, the identifier used in events."""
    return {thing.en: thing for thing in _things()}


@cache
def adjectives_for(noun: str) -> tuple[str, ...]:
    """The adjectives that suit a thing."""
    tags = set(things()[noun].tags.split(","))
    general = not tags & {"food", "nature"}
    fitting = [w.en for w in ADJECTIVES.values() if tags & set(w.tags.split(",")) or (general and "any" in w.tags)]
    return tuple(word for word in fitting if not noun.startswith(word))


@cache
def spots_at(place: str) -> tuple[str, ...]:
    """Where something may lie hidden at a place."""
    wanted = "in" if PLACES[place].indoors else "out"
    return tuple(word.en for word in SPOTS.values() if word.tags == wanted)


def article(phrase: str) -> str:
    """`phrase` behind "a" or "an"."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def name_of(identifier: str, language: Language) -> str:
    """A person's or a thing's word in `language`."""
    entry = people().get(identifier) or things().get(identifier)
    if entry is None:
        raise KeyError(identifier)
    return entry.zh if language == "zh" else entry.en
