"""Valid files, made wrong: as bytes, as tables, as JSON, as safetensors, as pickles. Every strategy gives bytes."""

import copy
import csv
import io
import json
import os
import pickle
import zipfile

from hypothesis import strategies as st

LARGE = 200_000  # characters of a field that is much too long
DEEP = 20_000  # brackets within brackets
NUMBERS = (0, -1, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.0, 1e308, float("nan"), float("inf"))
ESCAPES = ("../outside", "..", "/etc/passwd", "C:\\Windows\\win.ini", "..\\outside", "a\0b", "~root", "a/../../outside")
TEXTS = (
    "",
    " ",
    "\n",
    "\ufeff",
    "\u202e",
    "e\u0301",
    "\U0001f5bc",
    "nan",
    "=1+1",
    '"',
    "'",
    ",",
    "%s{0}",
    "<unk>",
    "a" * LARGE,
    "9" * 5000,
    *ESCAPES,
)
SURROGATE = "\ud800"
LITERALS = (b"NaN", b"-Infinity", b"9" * 5000, b"1e999", b"[" * DEEP, b'{"a":' * DEEP, b"null", b'"\\ud800"', b"tru")
CHUNKS = (b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\r", b'"', b"\t", b",", b"{", b"}", b"\xff" * 8, b"9" * 5000)
anything = st.sampled_from([None, True, False, [], {}, [None], {"": ""}, SURROGATE, *NUMBERS, *TEXTS])


def damaged(draw, data: bytes) -> bytes:
    "Bytes cut, changed, repeated, moved, or with something put between."
    for _ in range(draw(st.integers(1, 3))):
        at, n = draw(st.integers(0, len(data))), draw(st.sampled_from([1, 2, 8, 100]))
        way = draw(st.sampled_from(["cut", "drop", "flip", "put", "again", "move", "number"]))
        if way == "cut":
            data = data[:at]
        elif way == "drop":
            data = data[:at] + data[at + n :]
        elif way == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif way == "put":
            data = data[:at] + draw(st.sampled_from(CHUNKS)) + data[at:]
        elif way == "again":
            data = data[:at] + data[at : at + n] * draw(st.sampled_from([2, 50])) + data[at + n :]
        elif way == "move":
            data = data[at:] + data[:at]
        elif way == "number":
            data = (
                data[:at]
                + draw(st.integers(0, 2**32 - 1)).to_bytes(4, draw(st.sampled_from(["big", "little"])))
                + data[at + 4 :]
            )
    return data


def recoded(draw, data: bytes) -> bytes:
    "A text in another encoding, or packed."
    way = draw(st.sampled_from(["utf-16", "utf-32", "utf-16-be", "utf-8-sig", "gzip", "zip"]))
    if way == "gzip":
        import gzip

        return gzip.compress(data)
    if way == "zip":
        return zipped({"a.txt": data})
    return data.decode("utf-8", "replace").encode(way)


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in members.items():
            z.writestr(name, data)
    return out.getvalue()


@st.composite
def binary(draw, seeds) -> bytes:
    seed = draw(st.sampled_from(seeds))
    return draw(st.binary(max_size=300)) if draw(st.integers(0, 9)) == 0 else damaged(draw, seed)


def places(value, path=()):
    "The way to each part of a JSON value."
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 3)):
            yield from places(value[i], (*path, i))


def changed(draw, value):
    "A JSON value with some parts replaced, removed, renamed or repeated."
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        *way, last = draw(st.sampled_from(list(places(value)))) or (None,)
        if last is None:
            return copy.deepcopy(draw(anything))
        holder = value
        for key in way:
            holder = holder[key]
        how = draw(
            st.sampled_from(["replace", "replace", "replace", "remove", "wrap", "rename", "escape", "neighbour"])
        )
        if how == "replace":
            holder[last] = copy.deepcopy(draw(anything))  # a later change must not reach the samples
        elif how == "remove":
            del holder[last]
        elif how == "wrap":
            holder[last] = draw(st.sampled_from([[holder[last]], {"a": holder[last]}, [holder[last]] * 2]))
        elif how == "rename" and isinstance(holder, dict):
            holder[draw(st.sampled_from(TEXTS))] = holder.pop(last)
        elif how == "escape":
            holder[last] = draw(st.sampled_from(ESCAPES))
        elif how == "neighbour" and isinstance(holder, list):
            holder[last] = draw(st.sampled_from(holder))
    return value


@st.composite
def jsons(draw, seeds, lines=False) -> bytes:
    "Of values, or of lists of values, one on each line."
    value = draw(st.sampled_from(seeds))
    how = draw(st.sampled_from(["change"] * 5 + ["bytes", "literal", "recode"]))
    if how == "change":
        value = [changed(draw, v) for v in value] if lines else changed(draw, value)
    text = "\n".join(map(json.dumps, value)) if lines and isinstance(value, list) else json.dumps(value)
    data = text.encode()
    if how == "literal":
        spots = [i for i in range(len(data)) if data[i : i + 1] in (b":", b"[", b",")]
        at = draw(st.sampled_from(spots or [0])) + 1
        data = data[:at] + draw(st.sampled_from(LITERALS)) + draw(st.sampled_from([b",", b"", b"}"])) + data[at:]
    return damaged(draw, data) if how == "bytes" else recoded(draw, data) if how == "recode" else data


@st.composite
def tables(draw, seeds, delimiter=",") -> bytes:
    "CSV: cells, rows and columns changed, or its text."
    seed = draw(st.sampled_from(seeds))
    how = draw(st.sampled_from(["cells"] * 5 + ["bytes", "bytes", "recode"]))
    if how == "bytes":
        return damaged(draw, seed)
    if how == "recode":
        return recoded(draw, seed)
    rows = list(csv.reader(io.StringIO(seed.decode(), newline=""), delimiter=delimiter))
    for _ in range(draw(st.integers(1, 4))):
        r = draw(st.integers(0, len(rows) - 1))
        c = draw(st.integers(0, max(0, len(rows[r]) - 1)))
        what = draw(
            st.sampled_from(["cell", "cell", "cell", "escape", "short", "long", "column", "again", "empty", "other"])
        )
        if what == "cell" and rows[r]:
            rows[r][c] = draw(st.sampled_from(TEXTS) | st.text(max_size=20) | st.sampled_from(NUMBERS).map(str))
        elif what == "escape" and rows[r]:
            rows[r][c] = draw(st.sampled_from(ESCAPES))
        elif what == "short":
            rows[r] = rows[r][:c]
        elif what == "long":
            rows[r] = rows[r] * (2 if len("".join(rows[r])) > LARGE else draw(st.sampled_from([2, 300])))
        elif what == "column":
            rows = [row[:c] + row[c + 1 :] for row in rows]
        elif what == "again":
            rows.insert(r, list(rows[r]))
        elif what == "empty":
            rows[r] = []
        elif what == "other" and rows[r]:
            rows[r][c] = draw(st.sampled_from([cell for row in rows for cell in row] or [""]))
        rows = rows or [[]]
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"]))).writerows(rows)
    return out.getvalue().encode("utf-8", "surrogatepass")


@st.composite
def tensors(draw, seeds) -> bytes:
    "safetensors: a header of JSON behind its length, then numbers."
    data = draw(st.sampled_from(seeds))
    size = int.from_bytes(data[:8], "little")
    header, numbers = json.loads(data[8 : 8 + size]), data[8 + size :]
    how = draw(st.sampled_from(["header", "header", "header", "length", "numbers", "bytes"]))
    if how == "bytes":
        return damaged(draw, data)
    if how == "numbers":
        at, kind = draw(st.integers(0, max(0, len(numbers) - 4))), draw(st.sampled_from([b"\0\0\xc0\x7f", b"\xff" * 4]))
        return data[: 8 + size] + numbers[:at] + kind + numbers[at + 4 :]
    if how == "length":
        return (
            draw(st.sampled_from([0, 1, size - 1, size + 1, 2**31, 2**60, 2**64 - 1])).to_bytes(8, "little") + data[8:]
        )
    entry = draw(st.sampled_from(sorted(header)))
    if isinstance(header[entry], dict) and "dtype" in header[entry] and draw(st.booleans()):
        field = draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        wrong = {
            "dtype": ["F64", "I64", "BOOL", "F8_E5M2", "Z9", "U8"],
            "shape": [[], [0], [2**40, 2**40], [-1], [1], [3, 3]],
            "data_offsets": [[0, 0], [0, 2**62], [4, 0], [-4, 4]],
        }
        header[entry][field] = draw(st.sampled_from(wrong[field]))
    else:
        header = changed(draw, header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


class Calls:
    "Pickles as a call."

    def __init__(self, function, *args):
        self.how = function, args

    def __reduce__(self):
        return self.how


def harm(canary: str) -> list:
    "Objects that leave a trace where they are unpickled the usual way."
    return [
        Calls(os.system, f"touch '{canary}'"),
        Calls(exec, f"open({canary!r}, 'w')"),
        Calls(eval, f"open({canary!r}, 'w')"),
        Calls(open, canary, "w"),
        Calls(os.mkdir, canary),
        Calls(getattr, Calls(__import__, "os"), "mkdir"),
    ]


OPCODES = (  # of pickles, with arguments that claim too much
    b'(', b')', b']', b'}', b'N', b'0', b'2', b'1', b'a', b'e', b'b', b's', b'u', b't', b'R', b'\x81', b'\x92',
    b'\x93', b'\x94', b'\x85', b'\x86', b'\x87', b'K\x01', b'J\xff\xff\xff\x7f', b'X\x01\x00\x00\x00a',
    b'h\x00', b'q\x00', b'j\xff\xff\xff\x7f', b'r\xff\xff\xff\x0f', b'cos\nsystem\n', b'cbuiltins\neval\n',
    b'ccollections\nOrderedDict\n', b'cnumpy.core.multiarray\nscalar\n', b'cbuiltins\nbytes\n',
    b'ctorch._utils\n_rebuild_tensor_v2\n', b'ibuiltins\nlist\n', b'(ios\nsystem\n', b'P1\n', b'Q', b'\x8f',
    b'\x90', b'\x91', b'\x8b\x01\x00\x00\x00\x01', b'\x8b\xff\xff\xff\x7f',
    b'\x8d\xff\xff\xff\xff\xff\xff\xff\x0f', b'\x96\xff\xff\xff\xff\xff\xff\xff\x0f', b'I9\n',
    b"L" + b"9" * 5000 + b"L\n", b"S'x'\n", b'\x88', b'G\x7f\xf8\x00\x00\x00\x00\x00\x00',
    b'\x95\xff\xff\xff\xff\xff\xff\xff\xff', b'.',
)  # fmt: skip


@st.composite
def pickles(draw, seeds, things, canary) -> bytes:
    "Damaged pickles, pickles with calls in them, and instructions in any order."
    how = draw(st.sampled_from(["bytes", "bytes", "call", "call", "instructions", "instructions", "insert", "thing"]))
    seed = draw(st.sampled_from(seeds))
    if how == "bytes":
        return damaged(draw, seed)
    if how == "call":
        evil = draw(st.sampled_from(harm(canary)))
        thing = draw(st.sampled_from([evil, [evil], {"train": evil}, {evil.how[0].__name__: [1, evil]}, (1, evil)]))
        return pickle.dumps(thing, draw(st.sampled_from([0, 1, 2, 3, 4, 5])))
    if how == "instructions":
        return b"".join(draw(st.lists(st.sampled_from(OPCODES), max_size=25))) + b"."
    if how == "insert":
        at = draw(st.integers(0, len(seed)))
        return seed[:at] + draw(st.sampled_from(OPCODES)) + seed[at:]
    return pickle.dumps(changed(draw, draw(st.sampled_from(things))), 4)
