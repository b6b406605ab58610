"""The words of the small world: people, things, places, colours and days, each in English and Chinese."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from nano_llada.world.splits import Language


@dataclass(frozen=True)
class Word:
    """One word in both languages; countable things also have a plural and a Chinese measure word."""

    en: str
    zh: str
    plural: str = ""
    measure: str = ""

    def text(self, language: Language) -> str:
        """The word as written in `language`."""
        return self.zh if language == "zh" else self.en


def _words(table: str) -> tuple[Word, ...]:
    return tuple(Word(*entry.split(":")) for entry in table.split())


PEOPLE = _words("Tom:汤姆 Amy:艾米 Jack:杰克 Lily:莉莉 Max:麦克斯 Anna:安娜 Ming:小明 Mei:小美")
COLOURS = _words("red:红色 blue:蓝色 green:绿色 yellow:黄色 white:白色 black:黑色 brown:棕色 grey:灰色")
OBJECTS = _words(
    "ball:球:balls:个 cup:杯子:cups:个 book:书:books:本 hat:帽子:hats:顶 bag:包:bags:个 box:盒子:boxes:个 "
    "car:汽车:cars:辆 pen:笔:pens:支 chair:椅子:chairs:把 key:钥匙:keys:把"
)
ANIMALS = _words(
    "cat:猫:cats:只 dog:狗:dogs:只 bird:鸟:birds:只 fish:鱼:fish:条 horse:马:horses:匹 "
    "cow:牛:cows:头 sheep:羊:sheep:只 pig:猪:pigs:头"
)
FRUITS = _words(
    "apple:苹果:apples:个 pear:梨:pears:个 banana:香蕉:bananas:根 peach:桃子:peaches:个 lemon:柠檬:lemons:个 "
    "grape:葡萄:grapes:颗 melon:西瓜:melons:个 cherry:樱桃:cherries:颗"
)
PLACES = _words("school:学校 park:公园 shop:商店 library:图书馆 station:车站 bank:银行 zoo:动物园 market:市场")
DAYS = _words(
    "Monday:星期一 Tuesday:星期二 Wednesday:星期三 Thursday:星期四 Friday:星期五 Saturday:星期六 Sunday:星期日"
)
MONTHS = _words(
    "January:一月 February:二月 March:三月 April:四月 May:五月 June:六月 "
    "July:七月 August:八月 September:九月 October:十月 November:十一月 December:十二月"
)
# Going round the compass, so that the opposite of entry i is entry i + 4.
DIRECTIONS = _words(
    "north:北边 northeast:东北边 east:东边 southeast:东南边 south:南边 southwest:西南边 west:西边 northwest:西北边"
)
CATEGORIES: tuple[tuple[Word, tuple[Word, ...]], ...] = (
    (Word("animal", "动物", "animals", "种"), ANIMALS),
    (Word("fruit", "水果", "fruits", "种"), FRUITS),
    (Word("colour", "颜色", "colours", "种"), COLOURS),
)
NOUNS = OBJECTS + ANIMALS + FRUITS

MOTHERS = _words(
    "Alice:爱丽丝 Betty:贝蒂 Clara:克拉拉 Diana:黛安娜 Emma:艾玛 Fiona:菲奥娜 Grace:格蕾丝 Helen:海伦 "
    "Iris:艾里斯 Julia:朱莉娅 Kate:凯特 Laura:劳拉 Nina:尼娜 Olivia:奥利维娅 Ruth:露丝 Sarah:萨拉"
)
FATHERS = _words(
    "Adam:亚当 Brian:布莱恩 Carl:卡尔 David:大卫 Eric:埃里克 Frank:弗兰克 George:乔治 Henry:亨利 "
    "Ivan:伊万 James:詹姆斯 Kevin:凯文 Louis:路易斯 Oscar:奥斯卡 Paul:保罗 Robert:罗伯特 Simon:西蒙"
)
# Everybody that a text may say something of. Many more names than PEOPLE: with a few, a model learns who tends to have
# what; with many, it has to look the name up in the text.
NAMES = PEOPLE + MOTHERS + FATHERS
FAMILY_NAMES = _words(
    "Brown:布朗 Hill:希尔 King:金 Scott:斯科特 Baker:贝克 Clark:克拉克 Davis:戴维斯 Evans:埃文斯 "
    "Fisher:费舍尔 Gray:格雷 Harris:哈里斯 Jones:琼斯 Kelly:凯利 Lewis:刘易斯 Moore:穆尔 Nelson:纳尔逊 "
    "Parker:帕克 Reed:里德 Smith:史密斯 Taylor:泰勒 Turner:特纳 Walker:沃克 Wilson:威尔逊 Young:扬"
)


def chinese_words() -> list[str]:
    """Every Chinese word of the world, longest first: what a tokenizer for it should keep whole."""
    words = NAMES + COLOURS + NOUNS + PLACES + DAYS + MONTHS + DIRECTIONS + FAMILY_NAMES
    everything = {word.zh for word in words} | {name.zh for name, _ in CATEGORIES}
    return sorted(everything, key=lambda word: (-len(word), word))


@cache
def _by_english() -> dict[str, Word]:
    everything = NAMES + COLOURS + NOUNS + PLACES + DAYS + MONTHS + DIRECTIONS
    categories = tuple(name for name, _ in CATEGORIES)
    return {word.en: word for word in everything + categories}


def find(english: str) -> Word:
    """The word of the world written `english` in English, as keys contain it."""
    return _by_english()[english]


def row(words: tuple[Word, ...] | list[Word], language: Language) -> str:
    """The words in `language` one after another, with a space between, so that each stays one token."""
    return " ".join(word.text(language) for word in words)


def some(number: int, noun: Word, language: Language) -> str:
    """A counted thing: `3 apples`, `1 apple`, `3个苹果`."""
    if language == "zh":
        return f"{number}{noun.measure}{noun.zh}"
    return f"{number} {noun.en if number == 1 else noun.plural}"
