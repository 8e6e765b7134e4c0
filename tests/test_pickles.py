"""Pickles are read without running them, and what is read equals what a real unpickling would have given."""

import base64
import collections
import datetime
import io
import os
import pickle
import random
import tarfile
import zipfile
import zlib

import numpy as np
import pandas as pd
import pytest
import torch

from sevlm.artemis.pickles import (
    _ALLOWED,
    UntrustedObject,
    module_tensors,
    read_untrusted,
    read_untrusted_torch,
    to_array,
    to_dataframe,
    type_name,
)
from sevlm.artemis.records import read_grouped
from sevlm.errors import CheckpointError, DataError, SevlmError
from sevlm.models.hub import read_pickle

PROTOCOLS = [0, 1, 2, 4, 5]
TABLE = pd.DataFrame(
    {
        "art_style": ["Cubism", "Realism"],
        "emotion": [[0, 8, 0], [2, 1]],
        "references": [["two jugs", "a puzzle", "it is calm"], ["a wide sea", "so still"]],
        "votes": [3, 2],
        "share": [0.5, 0.25],
        "good": [True, False],
    }
)
WRITTEN = {  # TABLE as other versions of pandas pickle it (protocol 2, zlib, base 85)
    "1.5.3": (
        "c-nQ8*_zul6vv%plFpc|l$Np+pn%H~7}fy_18pg^qA7^YEJ4V&61yWWe@kwfp@DMIna&-Lz`O8ZASs#7R|>kY&ymjZJLl8U^>$qGBH?Nfm$ev-Yn}`LEZ6*;li;2F9j!UqLAc_19?K^+I=6Xbg%)+e"
        "r5fbC;1f|R|FkUQt&0oI$4ano&tw*<0|%cqMU}-{Qn1K+_~^z(lUK7v;JlGK<8{qvKC4As7E0GmtbOzrR=$bpPH~8MH?SJBxJ*Q>d{J1z$6DAj$PxUoXa17wtXRigJGh(To?YBaabG}Mq(j;}IJ^v*"
        "=viev?+@F?<I)C>?A_eO0~ALC(s9wQ;n;9EyzsYK?n5>;9*p)zI3BnxXPPKeIUWiR8HEZit@iK;j|9XctHcu{JQ|QTX&K?MAY3(8dRq1`Hxq@&oyz-Fv%M_^o(O%TX1brLe#~W#Cyh@(aJ#%e%@Wa9"
        "g5xRYrOLk2nUr{12#sf=n6aqIOalwXd?mBkRCU52bVzF#&r&=`+Piq3B1pSwFLez(nVPP=K=GpOO3QZTrF7AVYy&UbMhqxk*>A)tyn1^hJdO2eFI@`{o70ZBSncH>ucfB(uT#9C@n)2sFdQqE<SmM~"
        "Ey)JOI|n51T9WrDPTeATe@Qalzz3FOlj1`|lHSSikz+XG?XSQ7+*}HOY~r+~I74w(<6}#)Lb{gX9K|P=;!}$A2NV}91)=!t7RALSMYN8grMN`#xurOE2gMhT!rHbxP@DBjimx=jwpqKRXS04o@vY4o"
        "QhcZJ{Rlq<{~D}BToq~%aV30Kh$%a7cYOT#|7J^z(HuW51~xI147Oj=&$c8^5!sS@HxQ>s&DBkUaLwMSS~I0*=H>}^dqrOAtSm5gH?9_AQJcvU3X`yFHm;P~$f=W6%4>nlWt@~{g3IO-ZbeQn%rgQx"
        "Y<7@S6zPA%*SwerpW5%TgmR85Nab)5UmG}pcrK#SWrdowmx`#MNXx|66ph%y6^iNNu`<JqtFAWN2KTgK=5&?|&0TM{NBG6%;9A!T*XEeJL1tsg%}o9}$8X_rdn{!+RV-;LGfZ3yCV3>J!u6Y~i3a}w"
        "6U3}D"
    ),
    "2.2.3": (
        "c-nQ8*_zul6vv%plFpc|l$Np+pn%H~7}fy_18pg^qA7^YEJ4V&61yWWe@kwfp@DMIna&-Lz`O8ZASs#7R|>kY&ymjZJLl8U^>$qGBH?Nfm$ev-Yn}`LEZ6*;li;2F9j!UqLAc_19?K^+I=6Xbg%)+e"
        "r5fbC;1f|R|FkUQt&0oI$4ano&tw*<0|%cqMU}-{Qn1K+_~^z(lUK6=bCL5#>WtSlpZTm7aakx`H?j87TbTJKs5`|W;@!Y%Y}^tND_;~=@Ua%Q408lO?3ushIxE(3*ADKcxMvslQrs7i7U_`o4h}Cv"
        "CVEyG&-=r+@wl{sBYQV@@c_lqfOK56YdAI>4ln#|miv%RjR&K>5sn8g%b6z1RE~$jLq?&3ORGIR!Xp9k$SU!~2#*G&O<G2HEC^SPm7bRU%gsdLai{Wr)ogD|fhR)WsG06(svmQi<4NPw58N*APqRey"
        "mEd^Fd8x9mbS5R97DD5hC}u2bGSk3<F<;3nHdUQ42p!Ve#j_O8k@ha0rwGz++DlynPo}0TFHpQ_yV9~<c`02qBHO^rwh;r0SN0om3a{SY2v1`@+Dq5M!{)T(EmnK^$7`u+{Oc5NXuKJvCk)4mC3%bD"
        "ZA-F2@y-FsyO!iVic_~p-d~c8H}HWa*`)Z;kfe7qeB>C8c>C+GKR1`cADcLBDb7%w)%e&_tdOpyI7jh`rTCQM`~k%UOF<|;yG3zvNfE7MXelmHd~PX@-9hn%qp-Fu57cJ;lHx0kuWi;Y>DjE`P<(5%"
        "h7{jvd_Teu!M`Re5m$v8L|h4<6=KTH+Z`W2{=eDMVl>B3i-}FlD1+^n^s_CAQ$)6;-VMa*QFC>ZAY8L|s@6>DnYnqw-CmKGIx7o|-HofoSkz{+gu*23nvE-^Hgf7@mGW93a~UUPnc%Xygj<o*3-gXZ"
        "4x1h16h->q@HH<c!l(ATETNpE3Q{>-#McH6AfAh;bXlP$?WH0rDAF?VHAN$KaD`&Jc&*GZ<EpF8w!yt^m^q#0LUY%f?Gb))Ik?uf!nHZ(Zjjknax;^^&hcA#+#X9=P8Ca<$_x|Nf=M0;sc`+KYNEkE"
        "1^KL!"
    ),
}


def put(path, thing, protocol=4):
    path.write_bytes(pickle.dumps(thing, protocol))
    return path


class Calls:
    "Pickles as a call of `function`."

    def __init__(self, function, *args, state=None):
        self.how = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_run(tmp_path, protocol):
    trace = tmp_path / "trace"
    evil = {
        "a": Calls(os.system, f'echo x > "{trace}"'),
        "b": [Calls(open, str(trace), "w")],
        "c": Calls(exec, f"open({str(trace)!r}, 'w')"),
        "d": Calls(Calls, Calls(os.mkdir, str(trace))),
    }
    evil["e"] = Calls(collections.Counter, Calls(os.mkdir, str(trace)))
    found = read_untrusted(put(tmp_path / "evil.pkl", evil, protocol))[0]
    assert not trace.exists()
    assert (
        found["a"].what in ("posix.system", "nt.system")
        and found["a"].args == (f'echo x > "{trace}"',)
        and "system" in repr(found["a"])
    )
    assert found["b"][0].what in ("io.open", "_io.open") and found["c"].what == "builtins.exec"
    for read in (to_array, to_dataframe):
        with pytest.raises(DataError, match="system"):
            read(found["a"])
    pickle.loads(pickle.dumps(evil["a"], protocol))  # the same thing opened the usual way does harm
    assert trace.exists()


def test_states_and_calls_are_only_written_down(tmp_path):
    class Bag:
        __reduce__ = lambda self: (collections.deque, ((1, 2),), {"x": 1})

    found = read_untrusted(put(tmp_path / "a.pkl", Bag()))[0]
    assert isinstance(found, UntrustedObject)
    assert (found.what, found.args, found.state) == ("collections.deque", ((1, 2),), {"x": 1})
    for harm in (b'cfunctools\npartial\n(cos\nsystem\ntR(S"ls"\ntR.', b'cos\nsystem\n(S"ls"\ntR(S"ls"\ntR.'):
        (tmp_path / "b.pkl").write_bytes(harm)
        with pytest.raises(DataError, match="not callable"):  # what a call gave is called again
            read_untrusted(tmp_path / "b.pkl")
    for name in ("__builtin__\neval", "builtins\n__import__", "os\nsystem", "numpy\ndtype", "pandas\nDataFrame"):
        (tmp_path / "c.pkl").write_bytes(b"c" + name.encode() + b'\n(S"ls"\ntR.')
        assert read_untrusted(tmp_path / "c.pkl")[0].args == ("ls",)


@pytest.mark.parametrize("name", sorted(_ALLOWED))
@pytest.mark.parametrize(
    "args",
    [
        (),
        (2**62,),
        (b"a" * 9, 2**62),
        ([1, 2],) * 4,
        ({"a": 1},) * 4,
        (None,) * 4,
        ("text" * 9, 0, ("ab", 2**40), (1, 1)),
    ],
    ids=lambda a: str(len(a)),
)
def test_what_is_allowed_is_harmless(tmp_path, name, args):
    "Whatever it is called with: plain data, or an error of ours."
    module, _, function = name.rpartition(".")
    call = pickle.dumps(args, 2)[:-1]
    (tmp_path / "a.pkl").write_bytes(call[:2] + f"c{module}\n{function}\n".encode() + call[2:] + b"R.")
    try:
        found = read_untrusted(tmp_path / "a.pkl")[0]
        assert found in ({}, b"", *args) or isinstance(found, UntrustedObject)
    except DataError:
        pass


def test_several_pickles_in_a_file(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(1, 2) + pickle.dumps({"x": [1, None]}, 2) + pickle.dumps("end", 4))
    assert read_untrusted(tmp_path / "a.pkl") == [1, {"x": [1, None]}, "end"]


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "exhausted"),
        (b"hello, world", "unknown"),
        (pickle.dumps(TABLE, 4)[:-1], "exhausted"),
        (pickle.dumps("x" * 100, 2)[:20], "expected 100 bytes"),
        (pickle.dumps(TABLE, 4) + b"rest", "cannot read"),
        (b"PK\3\4 and more", "cannot read"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "an entry 2147483647"),
        (b"(lp99999999999\n.", "an entry 99999999999"),  # a memo of 2**31 and 10**11 entries
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x00.", "expected 72057594037927935 bytes"),
        (b"\x80\x05\x96\0\0\0\0\0\1\0\0.", "expected 1099511627776 bytes"),  # bytes that are not there
        (b"\x80\x02\x82\x01.", "extension"),
        (b"\x80\x05\x97.", "cannot read"),
        (b"Pabc\n.", "cannot read"),
        (b"0.", "cannot read"),
        (b"\x80\x77N.", "cannot read"),
        (b"".join(b"ca\n%d\n0" % i for i in range(1_001)) + b"N.", "1000 different names"),
    ],
)
def test_what_is_no_whole_pickle_is_refused(tmp_path, data, message):
    (tmp_path / "a.pkl").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_untrusted(tmp_path / "a.pkl")


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot read.*No such file"):
        read_untrusted(tmp_path / "no.pkl")
    with pytest.raises(CheckpointError, match="cannot read.*No such file"):
        read_untrusted_torch(tmp_path / "no.pt")


ARRAYS = {
    "int": np.arange(6, dtype=np.int32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">f4"),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "text": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bc"]),
    "empty": np.zeros((0, 3)),
    "not contiguous": np.arange(12).reshape(3, 4)[::2, ::2],
    "objects": np.array([["a", None], [1.5, float("inf")]], object),
    "lists": np.array([[1], [2, 3], 0], object)[:2],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(tmp_path, name, protocol):
    want, found = ARRAYS[name], to_array(read_untrusted(put(tmp_path / "a.pkl", ARRAYS[name], protocol))[0])
    assert found.dtype == want.dtype and found.shape == want.shape and np.array_equal(found, want)


def test_names_of_numpy_1(tmp_path):
    data = pickle.dumps(np.arange(3), 2).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core.multiarray" in data
    (tmp_path / "a.pkl").write_bytes(data)
    assert to_array(read_untrusted(tmp_path / "a.pkl")[0]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_things(tmp_path, protocol):
    thing = {
        "a": np.float32(1.5),
        "b": np.int64(7),
        "c": collections.OrderedDict(x=1),
        "j": (1, [None, True]),
        "l": np.bool_(True),
        "u": np.str_("text"),
        3: 2**100,
    }
    found = read_untrusted(put(tmp_path / "a.pkl", thing, protocol))[0]
    assert found == thing and isinstance(found["c"], dict) and [type(found[k]) for k in "abl"] == [float, int, bool]


def test_what_is_not_understood_is_named(tmp_path):
    for thing, name in (
        (datetime.date(2020, 1, 1), "datetime.date"),
        (np.zeros(2, [("a", int)]), "_reconstruct"),
        (np.zeros(2, "M8[D]"), "_reconstruct"),
        (np.zeros((2, 2, 2)), "_reconstruct"),
        (pd.array([1, None], dtype="Int64"), "IntegerArray"),
        (len, "the name builtins.len"),
        (collections.OrderedDict, "the name _Dict"),
    ):
        found = read_untrusted(put(tmp_path / "a.pkl", thing))[0]
        assert name in type_name(found)
        with pytest.raises(DataError, match=f"cannot read '{name if ' ' in name else ''}.*; expected an array"):
            to_array(found)


DTYPE = (np.dtype, ("V8", False, True))
DISHONEST = {  # states that NumPy's own functions believe
    "objects made of bytes": (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0),
    "fields outside": (3, "|", None, ("a",), {"a": (np.dtype("f8"), 1 << 20)}, 8, 1, 0),
    "a list of types": (3, "O,", None, None, None, -1, -1, 0),
}


@pytest.mark.parametrize("name", DISHONEST)
def test_types_that_lie(tmp_path, name):
    "An allow-list with NumPy's dtype on it ends the process at the first, and reads foreign memory at the second."
    for code in ("V8", "i8"):
        dtype = Calls(np.dtype, code, False, True, state=DISHONEST[name])
        array = Calls(np.zeros(0).__reduce__()[0], np.ndarray, (0,), b"b", state=(1, (1,), dtype, False, b"\x41" * 8))
        with pytest.raises(DataError):
            print(to_array(read_untrusted(put(tmp_path / "a.pkl", array, 2))[0]).dtype)
            assert code == "i8" and name != "a list of types"
            raise DataError("plain numbers after all: the state's fields are of no account")


def test_sharing_does_not_multiply(tmp_path):
    "Thirty lists, each holding the one before twice: thirty lists, not 2**30; nor are they printed."
    deep = []
    for _ in range(60):
        deep = [deep, deep]
    found = read_untrusted(put(tmp_path / "a.pkl", deep))[0]
    assert found[0] is found[1] and found[0][0] is found[0][1]
    with pytest.raises(DataError, match="found a list"):
        read_grouped(tmp_path / "a.pkl")
    tree = {"w": torch.ones(1)}
    for _ in range(60):
        tree = {"a": tree, "b": tree}
    with pytest.raises(CheckpointError, match="too many parts"):
        module_tensors(tree)


@pytest.mark.parametrize("shape", [b"J\xff\xff\xff\x7f", b"K\x02", b"J\xff\xff\xff\xff"])
def test_an_array_that_lies_about_its_size(tmp_path, shape):
    data = pickle.dumps(np.zeros(3), 2)
    assert data.count(b"K\x03\x85") == 1
    (tmp_path / "a.pkl").write_bytes(data.replace(b"K\x03\x85", shape + b"\x85"))
    with pytest.raises(DataError, match="24 bytes instead of"):
        to_array(read_untrusted(tmp_path / "a.pkl")[0])


def same(found, want):
    assert list(found.columns) == list(want.columns) and found.index.equals(pd.RangeIndex(len(want)))
    for c in want:
        assert found[c].tolist() == want[c].tolist(), c


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tables(tmp_path, protocol):
    for table in (
        TABLE,
        TABLE.set_index("art_style"),
        TABLE[TABLE.votes > 2],
        TABLE.astype({"art_style": object}),
        TABLE.assign(again=TABLE.votes * 2),
        TABLE[["votes"]],
        TABLE.iloc[:0],
    ):
        found = to_dataframe(read_untrusted(put(tmp_path / "a.pkl", table, protocol))[0])
        same(found, table)
        assert all(found[c].dtype == table[c].dtype for c in table if table[c].dtype.kind in "ifb")
    for kind in (object, "str", "string"):
        gaps = pd.DataFrame({"t": ["a", None]}).astype(kind)
        found = to_dataframe(read_untrusted(put(tmp_path / "a.pkl", gaps, protocol))[0])
        assert found.t[0] == "a" and pd.isna(found.t[1]) == pd.isna(gaps.t[1]), kind  # pandas 2 makes None a "str"


@pytest.mark.parametrize("version", WRITTEN)
def test_tables_of_other_versions(tmp_path, version):
    (tmp_path / "a.pkl").write_bytes(zlib.decompress(base64.b85decode(WRITTEN[version])))
    found = to_dataframe(read_untrusted(tmp_path / "a.pkl")[0])
    same(found, TABLE)
    assert [found[c].dtype for c in ("votes", "share", "good")] == [np.int64, np.float64, bool]


@pytest.mark.parametrize("places", [slice(0, 2), np.array([1, 0])])
def test_a_table_of_pandas_0_25(tmp_path, places):
    "Its block manager's state, by hand: axes, values, items, and all again under the key 0.14.1."
    from pandas.core.internals.managers import BlockManager

    axes = [pd.Index(np.array(["a", "b", "n"], object), dtype=object), pd.RangeIndex(2)]
    values = [np.array([["x", "y"], [[1], [2, 3]]], object), np.array([[5, 6]])]
    blocks = [{"values": values[0], "mgr_locs": places}, {"values": values[1], "mgr_locs": slice(2, 3, 1)}]
    manager = Calls(
        BlockManager, state=(axes, values, [axes[0][:2], axes[0][2:]], {"0.14.1": {"axes": axes, "blocks": blocks}})
    )
    table = Calls(pd.DataFrame, state={"_data": manager, "_typ": "dataframe", "_metadata": []})
    first, second = ("a", "b") if isinstance(places, slice) else ("b", "a")
    found = to_dataframe(read_untrusted(put(tmp_path / "a.pkl", table, 2))[0])
    assert found.to_dict("list") == {first: ["x", "y"], second: [[1], [2, 3]], "n": [5, 6]} and list(found) == [
        "a",
        "b",
        "n",
    ]


def test_what_is_no_table(tmp_path):
    twice = pd.DataFrame([[1, 2]], columns=["a", "a"])
    for thing, message in (
        (TABLE.votes, "expected a pandas DataFrame"),
        ({"a": 1}, "cannot read 'dict'"),
        (twice, "not one column for each name"),
        (pd.DataFrame([[1, 2]]), "expected a pandas DataFrame"),
        (pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])), "expected a pandas DataFrame"),
        (TABLE.assign(votes=pd.Categorical(TABLE.votes)), "expected an array"),
    ):
        with pytest.raises(DataError, match=message):
            to_dataframe(read_untrusted(put(tmp_path / "a.pkl", thing))[0])


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.text = torch.nn.ModuleDict({"emb": torch.nn.Embedding(5, 4, padding_idx=0), "rnn": torch.nn.LSTM(4, 3)})
        self.head = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.ReLU())
        self.tied = torch.nn.Linear(4, 5, bias=False)
        self.tied.weight = self.text["emb"].weight
        self.register_buffer("small", torch.arange(6).half().reshape(2, 3).t())
        self.register_buffer("mask", torch.ones(3, 3, dtype=torch.bool))
        self.register_buffer("brain", torch.tensor([1.5], dtype=torch.bfloat16))
        self.register_buffer("not_saved", torch.ones(1), persistent=False)
        self.register_parameter("nothing", None)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net()


def equal(found, want):
    assert list(found) == list(want)
    for k in want:
        assert found[k].dtype == want[k].dtype and torch.equal(found[k], want[k]), k


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module(tmp_path, net, zipped, monkeypatch):
    torch.save(net, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    monkeypatch.setattr(Net, "__init__", None)  # the class is not needed
    monkeypatch.setattr(Net, "__setstate__", None, raising=False)
    found = read_untrusted_torch(tmp_path / "a.pt")
    assert found.what.endswith("Net") and found.state["training"] is True
    equal(module_tensors(found), net.state_dict())
    torch.save(
        {"epoch": 3, "model": net, "other": {"w": torch.arange(3)}},
        tmp_path / "b.pt",
        _use_new_zipfile_serialization=zipped,
    )
    equal(
        module_tensors(read_untrusted_torch(tmp_path / "b.pt")),
        {**{f"model.{k}": v for k, v in net.state_dict().items()}, "other.w": torch.arange(3)},
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_and_views(tmp_path, net, zipped):
    torch.save(net.state_dict(), tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    equal(module_tensors(read_untrusted_torch(tmp_path / "a.pt")), net.state_dict())
    base = torch.arange(12.0)
    views = {
        "all": base,
        "some": base[3:7],
        "turned": base.reshape(3, 4).t()[1:],
        "none": base[:0],
        "one": torch.tensor(2),
        "wide": torch.ones(2, dtype=torch.float64),
    }
    torch.save(views, tmp_path / "b.pt", _use_new_zipfile_serialization=zipped)
    equal(module_tensors(read_untrusted_torch(tmp_path / "b.pt")), views)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_is_not_run(tmp_path, zipped):
    trace, allowed = tmp_path / "trace", torch.serialization.get_safe_globals()
    for harm in (Calls(os.system, f'echo x > "{trace}"'), Calls(exec, f"open({str(trace)!r}, 'w')")):
        torch.save({"w": torch.ones(1), "x": harm}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        try:
            found = read_untrusted_torch(tmp_path / "a.pt")
            assert isinstance(found["x"], UntrustedObject) and list(module_tensors(found)) == ["w"]
        except CheckpointError as e:  # PyTorch refuses some modules whatever stands for their names
            assert zipped and "posix.system" in str(e)
        with pytest.raises(CheckpointError, match="was not run|not a readable"):
            read_pickle(tmp_path / "a.pt")
    assert not trace.exists()
    assert set(torch.serialization.get_safe_globals()) == set(allowed)  # no name is allowed beyond the one file


@pytest.mark.parametrize("zipped", [True, False])
def test_whatever_pytorch_runs_by_itself_is_refused(tmp_path, zipped):
    "A TorchScript archive is a program, and a tar archive of PyTorch 0.1 was unpacked to a folder."
    script = torch.jit.script(torch.nn.Linear(1, 1)) if zipped else None
    if zipped:
        torch.jit.save(script, tmp_path / "a.pt")
    else:
        with tarfile.open(tmp_path / "a.pt", "w") as tar:
            for name in ("storages", "tensors", "pickle"):
                tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(CheckpointError):
        read_untrusted_torch(tmp_path / "a.pt")


def rezip(source, target, change):
    with zipfile.ZipFile(source) as a, zipfile.ZipFile(target, "w") as b:
        for i in a.infolist():
            if (new := change(i.filename, a.read(i))) is not None:
                b.writestr(i.filename, *(new if isinstance(new, tuple) else (new,)))


@pytest.mark.parametrize(
    "change",
    [
        lambda n, d: None if n.endswith("data/0") else d,
        lambda n, d: d[:-4] if n.endswith("data/0") else d,
        lambda n, d: (d, zipfile.ZIP_DEFLATED) if n.endswith("data/0") else d,
        lambda n, d: None if n.endswith("data.pkl") else d,
        lambda n, d: d[:-5] if n.endswith("data.pkl") else d,
        lambda n, d: d.replace(b"FloatStorage", b"ThinkStorage") if n.endswith("data.pkl") else d,
        lambda n, d: d.replace(b"K\x03\x85", b"K\x04\x85") if n.endswith("data.pkl") else d,  # longer than its storage
    ],
)
def test_damaged_torch_files(tmp_path, change):
    torch.save({"w": torch.arange(3.0)}, tmp_path / "a.pt")
    rezip(tmp_path / "a.pt", tmp_path / "b.pt", change)
    for read in (read_untrusted_torch, read_pickle):
        with pytest.raises(CheckpointError, match="not a readable PyTorch file|was not run"):
            read(tmp_path / "b.pt")


def test_what_is_no_torch_file(tmp_path, net):
    with pytest.raises(CheckpointError, match="not from torch.save"):
        read_untrusted_torch(put(tmp_path / "a.pt", {"a": 1}))
    (tmp_path / "b.pt").write_text("hello", encoding="utf-8")
    with pytest.raises(CheckpointError, match="expected a whole file from torch.save"):
        read_untrusted_torch(tmp_path / "b.pt")
    torch.save(net, tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "c.pt").write_bytes(whole[:-3])
    with pytest.raises(CheckpointError, match="cut off"):
        read_untrusted_torch(tmp_path / "c.pt")
    torch.save(collections.OrderedDict, tmp_path / "f.pt")  # a class that PyTorch allows, and no object of it
    for thing, name in (({"a": 1}, "dict"), (read_untrusted_torch(tmp_path / "f.pt"), "the name OrderedDict")):
        with pytest.raises(CheckpointError, match=f"'{name}'.*no tensors"):
            module_tensors(thing)
    torch.save({"w": torch.ones(2, 2).to_sparse()}, tmp_path / "d.pt")
    many = {"w": torch.ones(1).expand(2**40)}  # four bytes that say they are four terabytes
    torch.save(many, tmp_path / "e.pt")
    for name in ("d.pt", "e.pt"):
        with pytest.raises(CheckpointError, match="w is no dense tensor"):
            module_tensors(read_untrusted_torch(tmp_path / name))


@pytest.mark.parametrize(
    "old, new, message",
    [
        (b"K\x03\x85q", b"K\x04\x85q", r"size \(4,\) in a storage of 3"),
        (b"K\x03\x85q", b"J\xff\xff\xff\xff\x85q", r"size \(-1,\)"),
        (b"K\x03N", b"J\xff\xff\xff\x7fN", "a storage of 2147483647 numbers"),
        (b"K\x03N", b"J\xff\xff\xff\xffN", "a storage of -1 numbers"),
        (b"FloatStorage", b"ThinkStorage", "ThinkStorage"),
    ],
)
def test_damaged_files_of_old_pytorch(tmp_path, old, new, message):
    torch.save({"w": torch.arange(3.0)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.pt").read_bytes()
    assert data.count(old) == 1
    (tmp_path / "a.pt").write_bytes(data.replace(old, new))
    with pytest.raises(CheckpointError, match=message):
        read_untrusted_torch(tmp_path / "a.pt")


def test_damage_of_any_kind_is_told(tmp_path):
    "Bytes changed at random: a result or an error of ours, never another exception."
    rng, files = (
        random.Random(0),
        [
            pickle.dumps(TABLE, 2),
            pickle.dumps(TABLE, 5),
            zlib.decompress(base64.b85decode(WRITTEN["1.5.3"])),
            pickle.dumps({"a": np.arange(4), "b": np.float64(2), "c": collections.OrderedDict(x=b"1")}, 2),
        ],
    )
    told, buffer = 0, io.BytesIO()
    for k in range(600):
        data = bytearray(files[k % len(files)])
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "a.pkl").write_bytes(data)
        try:
            for thing in read_untrusted(tmp_path / "a.pkl"):
                whole = isinstance(thing, dict) and "a" in thing  # its name may have been what was damaged
                to_dataframe(thing) if k % len(files) < 3 else to_array(thing["a"] if whole else thing)
        except SevlmError:
            told += 1
    assert 150 < told < 600
    torch.save({"m": torch.nn.Linear(2, 2), "s": torch.arange(3)}, buffer, _use_new_zipfile_serialization=False)
    torch.save({"m": torch.nn.Linear(2, 2), "s": torch.arange(3)}, zipped := io.BytesIO())
    for k in range(400):
        data = bytearray((buffer, zipped)[k % 2].getvalue())
        data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "a.pt").write_bytes(data)
        try:
            module_tensors(read_untrusted_torch(tmp_path / "a.pt"))
        except SevlmError:
            pass
