"""A story: its cast, its log of events, and how to tell it in either language."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from nano_llada.world.splits import Key, Language
from nano_llada.world.stories.events import Event, named
from nano_llada.world.stories.grammar import Form, grammar
from nano_llada.world.stories.phrases import CONNECTIVES, JOINTS, prefixes, statements
from nano_llada.world.stories.teller import ChineseTeller, EnglishTeller, Teller

EXCITING = frozenset(("find", "can", "reveal", "delight", "rainbow", "play_both", "end_day"))
# Actions that may share one subject: "She went to the park and looked for the kite."
FIRST_ACTIONS = named(
    "go bring come search buy make wrap discover go_both find help_heavy help_knee help_astray greet home_both confess"
)
SECOND_ACTIONS = named(
    "play search wrap thank hug sorry ask_seen play_both play_thing search_both give_present offer whose "
    "ask_borrow give look greet eat picnic laugh_both invite"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of the log; `link` is its relation to the event before: so, but, then, sudden, para and so on."""

    kind: str
    args: tuple[str, ...]
    link: str = ""

    @property
    def event(self) -> Event:
        """Kind and arguments."""
        return self.kind, self.args


@dataclass(frozen=True)
class Story:
    """The ground truth. `key` is the skeleton that decides the split; `gist` the events that a summary states."""

    key: Key
    log: tuple[Entry, ...]
    adjectives: dict[str, str]
    cast: tuple[str, ...]
    gist: tuple[str, tuple[str, ...]]
    narrator: str = ""

    def events(self) -> list[Event]:
        """What happens, in order."""
        return [(entry.kind, entry.args) for entry in self.log]

    def with_log(self, log: tuple[Entry, ...]) -> Story:
        """The same cast in other events."""
        return replace(self, log=log)

    def seen_by(self, narrator: str) -> Story:
        """The story in the first person of one of its cast, who says their name first."""
        log: list[Entry] = []
        for entry in self.log:
            if entry.kind == "intro":
                log.append(Entry("self", (narrator,)))
                if entry.args[0] != narrator:
                    log.append(Entry("tell_of", entry.args))
            elif entry.kind == "friend" and narrator in entry.args:
                log.append(Entry("friends_both", entry.args, entry.link))
            else:
                log.append(entry)
        return replace(self, log=tuple(log), narrator=narrator)


@dataclass(slots=True)
class Telling:
    """A told story: its sentences, and for each the indices of the entries it states; `breaks` begin paragraphs."""

    language: Language
    sentences: list[str] = field(default_factory=list)
    entries: list[tuple[int, ...]] = field(default_factory=list)
    breaks: list[bool] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The whole text."""
        return self.part(0, len(self.sentences))

    def part(self, start: int, stop: int) -> str:
        """The sentences from `start` to `stop`, with paragraph breaks."""
        space = " " if self.language == "en" else ""
        out: list[str] = []
        for index in range(start, stop):
            if index > start:
                out.append("\n" if self.breaks[index] else space)
            out.append(self.sentences[index])
        return "".join(out)


def tell(story: Story, language: Language, rng: Random) -> Telling:
    """Tell the story once; another state of `rng` finds other words."""
    return _Telling(story, language, rng).run()


class _Telling:
    def __init__(self, story: Story, language: Language, rng: Random) -> None:
        make = EnglishTeller if language == "en" else ChineseTeller
        self.teller: Teller = make(rng, story.adjectives, story.narrator)
        self.random = rng.random
        self.forms = grammar(language).forms
        self.language: Language = language
        self.log = story.log
        self.used: dict[str, int] = {}
        self.out = Telling(language)
        self.linked: set[str] = set()
        self.broke = 0

    def run(self) -> Telling:
        index = 0
        while index < len(self.log):
            index = self._sentence(index)
        return self.out

    def _sentence(self, index: int) -> int:
        start, entry = index, self.log[index]
        breaks = entry.link == "para" or (entry.kind == "when" and index > 0 and entry.args[0] != "same")
        breaks = breaks and len(self.out.sentences) >= self.broke + 3
        if breaks:
            self.teller.named, self.broke = True, len(self.out.sentences)
        head = ""
        if entry.kind == "when":
            time = (entry.args[0], entry.args[1], entry.args[2])
            if time[2] != "any" and time[0] != "same" and self.random() < 0.45:
                self._add(self._pick(statements(self.language)[time]), (index,), breaks, "")
                return index + 1
            head = self._pick(prefixes(self.language)[time])
            index += 1
            entry = self.log[index]
        reason = index + 1 < len(self.log) and self.log[index + 1].kind.startswith("why.")
        form = self._form(entry, plain=bool(head) or reason, subject=reason)
        if not head and form.plain:
            head = self._connective(entry.link)
        text, index = self._body(entry, form, index)
        if head and self.language == "en":
            text = head + (text if text[:1] == '"' else _lower(text, form))
        else:
            text = head + text
        self._add(text, tuple(range(start, index)), breaks, entry.kind)
        return index

    def _body(self, entry: Entry, form: Form, index: int) -> tuple[str, int]:
        following = self.log[index + 1] if index + 1 < len(self.log) else None
        if following and following.kind.startswith("why."):
            return self._because(entry, form, following), index + 2
        text = self.teller.fill(form, entry.args)
        if following and self._joinable(entry, form, following):
            other = self._form(following, plain=True, subject=True)
            if other.agent_first and other.tokens[0].letter == form.tokens[0].letter:  # type: ignore[union-attr]
                joint = JOINTS[self.language][-1 if following.link == "then" else 0]
                rest = self.teller.fill(other, following.args, 1)
                return text + joint + rest.lstrip(), index + 2
        return text, index + 1

    def _joinable(self, entry: Entry, form: Form, following: Entry) -> bool:
        if not form.agent_first or following.link not in ("", "then", "too"):
            return False
        if following.kind not in SECOND_ACTIONS or entry.kind not in FIRST_ACTIONS or self.random() > 0.6:
            return False
        if entry.kind == "find" and following.kind != "give":
            return False
        pair = form.tokens[0].letter == "g"  # type: ignore[union-attr]
        if pair:
            return entry.args[:2] == following.args[:2]
        return bool(entry.args) and bool(following.args) and entry.args[form.tokens[0].role] == following.args[0]  # type: ignore[union-attr]

    def _because(self, entry: Entry, form: Form, reason: Entry) -> str:
        if self.language == "zh" and self.random() < 0.5 and self.teller.talk.clear_person(entry.args[0]):
            pass
        text = self.teller.fill(form, entry.args)
        clause = self.teller.fill(self._form(reason, plain=False), reason.args)
        return f"{text} because {clause}" if self.language == "en" else f"{text}，因为{clause}"

    def _form(self, entry: Entry, *, plain: bool, subject: bool = False) -> Form:
        sources = self.forms[entry.kind]
        last = self.used.get(entry.kind, -1)
        best: Form | None = None
        for _ in range(6):
            source = int(self.random() * len(sources))
            if source == last and len(sources) > 1:
                continue
            options = sources[source]
            form = options[int(self.random() * len(options))]
            if (plain and not form.plain) or (subject and not form.agent_first):
                continue
            if (form.omitted or form.bound) and not self.teller.fits(form, entry.args):
                continue
            best = form
            break
        if best is None:
            forms = [form for options in sources for form in options]
            complete = (form for form in forms if self.teller.fits(form, entry.args))
            best = next(complete, forms[0])
        self.used[entry.kind] = best.source
        return best

    def _connective(self, link: str) -> str:
        words = CONNECTIVES[self.language].get(link)
        if not words:
            return ""
        for _ in range(3):
            word = self._pick(words)
            if not word or word not in self.linked:
                break
        if word in self.linked and link not in ("but", "so", "pity"):
            return ""
        self.linked.add(word)
        return word

    def _pick(self, options: tuple[str, ...]) -> str:
        return options[int(self.random() * len(options))]

    def _add(self, text: str, entries: tuple[int, ...], breaks: bool, kind: str) -> None:
        out, english = self.out, self.language == "en"
        if english:
            at = 1 if text[0] == '"' else 0
            text = text[:at] + text[at].upper() + text[at + 1 :]
        if not (text[-1] in '"”' and text[-2] in ".!?。！？"):
            strong = kind in EXCITING and '"' not in text and "“" not in text and self.random() < 0.3
            text += ("!" if strong else ".") if english else ("！" if strong else "。")
        out.sentences.append(text)
        out.entries.append(entries)
        out.breaks.append(breaks)
        self.teller.talk.end_sentence()


def _lower(text: str, form: Form) -> str:
    return text if form.parts[0].__class__ is not str else text[0].lower() + text[1:]
