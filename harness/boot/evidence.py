"""Evidence: what a guest's userspace says it did, over a channel of its own.

The guest's init (``guest/init.c``; the protocol is in ``guest/evidence.h``) writes
records to an I/O port, each led by the nonce that this boot was given on its
kernel command line. Only a closing record that counts all the others makes the
evidence complete: silence, a cut-off stream and another boot's words prove nothing.
"""

from __future__ import annotations

from msgspec import Struct, field


class Part(Struct, frozen=True):
    """One part of the workload: how many things the kernel did of those asked."""

    name: str
    done: int
    asked: int

    @property
    def whole(self) -> bool:
        """Everything asked was done."""
        return self.done == self.asked


class Evidence(Struct, frozen=True):
    """What was said, record kind by record kind, in the order it came.

    Attributes:
        hello: userspace runs, and has this boot's nonce.
        complete: the closing record came and counts every record before it.
        records: how many records were understood.
        facts: name -> value.
        parts: the workload's parts that ended.
        lacks: name -> why the guest could not do or tell it.
        marks: points that userspace passed (``hold``, ``nmi``).
        texts: name -> what the guest sent under it (``stack/1/init``, ``tasks``).
    """

    hello: bool = False
    complete: bool = False
    records: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    lacks: dict[str, str] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)

    def text(self, prefix: str) -> str:
        """Join the texts whose name starts with ``prefix``."""
        return "".join(
            text for name, text in self.texts.items() if name.startswith(prefix)
        )

    @property
    def kernel_log(self) -> str:
        """The kernel's log as userspace read it: without the console's losses."""
        return self.text("log-")


def parse(data: bytes, nonce: str) -> Evidence:
    """Read the stream of one boot; what is not led by ``nonce`` is not ours.

    Never fails: a stream that is cut off or damaged is evidence that is not
    complete.
    """
    reader = _Reader(data, f"{nonce} ".encode())
    while reader.step():
        pass
    return Evidence(
        hello=reader.hello,
        complete=reader.complete,
        records=reader.records,
        facts=reader.facts,
        parts=tuple(reader.parts),
        lacks=reader.lacks,
        marks=tuple(reader.marks),
        texts=reader.texts,
    )


class _Reader:
    """A cursor over the stream, and what it has read so far."""

    def __init__(self, data: bytes, lead: bytes) -> None:
        self._data = data
        self._lead = lead
        self._at = 0
        self.hello = False
        self.complete = False
        self.records = 0
        self.facts: dict[str, str] = {}
        self.parts: list[Part] = []
        self.lacks: dict[str, str] = {}
        self.marks: list[str] = []
        self.texts: dict[str, str] = {}

    def step(self) -> bool:
        """Read one line (and the bytes it announces); False at the end."""
        end = self._data.find(b"\n", self._at)
        if end < 0:
            return False
        line = self._data[self._at : end]
        self._at = end + 1
        if line.startswith(self._lead):
            kind, _, rest = (
                line[len(self._lead) :].decode(errors="replace").partition(" ")
            )
            if self._record(kind, rest):
                self.records += 1
        return True

    def _record(self, kind: str, rest: str) -> bool:
        name, _, value = rest.partition(" ")
        match kind:
            case "hello":
                self.hello = True
            case "fact":
                self.facts[name] = value.strip()
            case "lack":
                self.lacks[name] = value.strip()
            case "mark":
                self.marks.append(name)
            case "part":
                return self._part(name, value)
            case "text":
                return self._text(name, value)
            case "done":
                self.complete = self.hello and rest.strip() == str(self.records)
            case _:
                return False
        return True

    def _part(self, name: str, value: str) -> bool:
        done, _, asked = value.partition(" ")
        if not (done.isdecimal() and asked.isdecimal()):
            return False
        self.parts.append(Part(name, int(done), int(asked)))
        return True

    def _text(self, name: str, value: str) -> bool:
        if not value.isdecimal():
            return False
        end = self._at + int(value)
        if self._data[end : end + 1] != b"\n":
            self._at = len(self._data)  # cut off within the text
            return False
        text = self._data[self._at : end].decode(errors="replace")
        self.texts[name] = self.texts.get(name, "") + text
        self._at = end + 1
        return True
