"""State dicts of PyTorch: what was saved comes out, nothing is run, and no file makes anything but one line.

tests/reference/torch_vit.ckpt and .safetensors were written by PyTorch 2.13.0 (torch.save, as Lightning lays it out)
and safetensors 0.8.0: each array is ((0, 1, 2, ... + length of its name) modulo 101 - 50)/64, which bfloat16 holds
exactly. In the .ckpt one array is transposed, two share a storage, one each is half, double and a Parameter.
"""

import io
import math
import struct
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch_writer
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from torch_writer import Attributes, Call, Name, Persistent, tensor

from jaxda.models import vit_torch
from jaxda.models.vit import ViTConfig
from jaxda.output import torch_files, torch_pickle
from jaxda.output.netcdf import FileError

REFERENCE = Path(__file__).parents[1] / "reference"
SMALL = ViTConfig(image_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, mlp_ratio=2, decoder_depth=1)
STATE = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.array([0.5, -0.5], np.float64)}


def pattern(name, shape):
    return ((np.arange(math.prod(shape)) + len(name)) % 101 - 50).reshape(shape) / 64


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def refused(path):
    with pytest.raises(FileError) as caught:
        torch_files.read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", ["torch_vit.ckpt", "torch_vit.safetensors"])
def test_files_of_pytorch_itself(name):
    found = torch_files.read(REFERENCE / name)
    shapes = vit_torch.shapes(SMALL)
    assert found.keys() == shapes.keys()
    for key, shape in shapes.items():
        np.testing.assert_array_equal(found[key].astype(np.float64), pattern(key, shape), err_msg=key)
    types = {array.dtype.name for array in found.values()}
    assert types == ({"bfloat16"} if name.endswith("safetensors") else {"float16", "float32", "float64"})
    assert not any(array.flags.writeable for array in found.values())


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64"])
def test_every_type_comes_out_bit_for_bit(tmp_path, dtype):
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(jnp.dtype(dtype))
    state = {"x": values, "scalar": np.array(values[0, 0]), "none": values[:0]}
    same(torch_files.read(torch_writer.save(tmp_path / "a.pt", state)), state)
    if dtype != "bfloat16":  # which safetensors' own writer for NumPy does not know
        save_file(state, tmp_path / "a.safetensors")
        same(torch_files.read(tmp_path / "a.safetensors"), state)


def test_views_of_one_storage(tmp_path):
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    views = {"turned": whole.T, "part": whole[1:3, ::2], "one": whole[2:3, 1:2]}
    at = lambda view: (view.__array_interface__["data"][0] - whole.__array_interface__["data"][0]) // 4
    tree = {name: tensor(0, view, offset=at(view), count=24) for name, view in views.items()}
    tree["row"] = tensor(0, whole, shape=(1, 6), strides=(10**15, 1))  # a stride that is never walked
    found = torch_files.read(torch_writer.write(tmp_path / "a.pt", tree, [whole]))
    same(found, views | {"row": whole[:1]})


@pytest.mark.parametrize("prefix", ["", "net.", "model.", "module.", "model.module.", "_orig_mod.net."])
def test_lightning_checkpoints_and_prefixes(tmp_path, prefix):
    state = {f"{prefix}{name}": array for name, array in STATE.items()}
    around = {
        "epoch": 3,
        "lr": 1e-4,
        "big": 2**40,
        "neg": -(2**70),
        "none": None,
        "yes": [True, False],
        "loops": {0: {}},
    }
    same(torch_files.read(torch_writer.save(tmp_path / "a.ckpt", state, lambda t: {**around, "state_dict": t})), STATE)
    same(torch_files.read(torch_writer.save(tmp_path / "a.pt", state)), STATE)
    save_file(state, tmp_path / "a.safetensors")
    same(torch_files.read(tmp_path / "a.safetensors"), STATE)


def test_a_prefix_of_some_names_stays():
    state = {"net.a": 1, "b": 2}
    assert torch_files.without_prefix(state) == state


def test_parameters_and_the_attributes_of_dicts(tmp_path):
    wrap = lambda tree: Attributes(
        {n: Call(Name("torch._utils", "_rebuild_parameter"), (t, True, torch_writer.EMPTY)) for n, t in tree.items()},
        {"_metadata": {"": {"version": 1}}},
    )
    same(torch_files.read(torch_writer.save(tmp_path / "a.pt", STATE, wrap)), STATE)


def run_by(path):
    """Things that a pickle could call to make the file."""
    code = f"open({str(path)!r}, 'w')"
    return {
        "os.system": Call(Name("os", "system"), (f"touch {path}",)),
        "posix.system": Call(Name("posix", "system"), (f"touch {path}",)),
        "builtins.exec": Call(Name("builtins", "exec"), (code,)),
        "__builtin__.eval": Call(Name("__builtin__", "eval"), (code,)),
        "builtins.getattr": Call(Name("builtins", "getattr"), (Name("os", "system"), "__call__")),
        "torch.load": Call(Name("torch", "load"), (str(path),)),
        "torch._utils._rebuild_tensor": Call(Name("torch._utils", "_rebuild_tensor"), ()),
        "pathlib.PosixPath": Call(Name("pathlib", "PosixPath"), ("a",)),
    }


@pytest.mark.parametrize("name", run_by(""))
def test_nothing_that_a_pickle_names_is_run(tmp_path, name):
    call = run_by(tmp_path / "ran")[name]
    for put in (lambda tree: {**tree, "x": call}, lambda tree: {"callbacks": [call], "state_dict": tree}):
        text = refused(torch_writer.save(tmp_path / "a.pt", STATE, put))
        assert f"names {name}, which no state dict needs; nothing of it was run; save the weights alone as" in text
    assert not (tmp_path / "ran").exists()


def test_names_that_are_allowed_are_not_called_with_anything_else(tmp_path):
    rebuild, storage = Name("torch._utils", "_rebuild_tensor_v2"), Name("torch", "FloatStorage")
    wrong = [
        Call(storage, (3,)),
        Call(rebuild, ()),
        Call(rebuild, (("storage", storage, "0", "cpu", 1), 0, (1,), (1,), False, None)),
        Call(Name("torch._utils", "_rebuild_parameter"), ("a", True, None)),
        Call(torch_writer.EMPTY.function, ([("a", 1)],)),
        Persistent(("module", storage, "0", "cpu", 1)),
        Persistent(("storage", rebuild, "0", "cpu", 1)),
        Persistent("a"),
        Attributes([1], {}),
        {("a", "b"): 1},
        {2**61 - 1: 1},
    ]
    for thing in wrong:
        assert "its pickle is damaged" in refused(torch_writer.write(tmp_path / "a.pt", {"x": thing}))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x80\x02}", "pickle exhausted before seeing STOP"),
        (b"\x80\x02.", "its pickle is damaged"),
        (b"\x80\x02h\x05.", "its pickle is damaged"),
        (b"\x80\x02u.", "its pickle is damaged"),
        (b"\x80\x02K\x01\x86.", "its pickle is damaged"),
        (b"\x80\x02I1\n.", "uses the opcode INT"),
        (b"\x80\x02(ios\nsystem\n.", "uses the opcode INST"),
        (b"\x80\x02(cos\nsystem\no.", "names os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "names os.system"),
        (b"\x80\x02cos\nsys\ttem\x1b[2J\n.", r"names os.sys\ttem\x1b[2J"),
        (b"\x80\x02\x82\x01.", "uses the opcode EXT1"),
        (b"\x80\x02K\x01.", "holds no state dict, but a value of type int"),
        (b"\x80\x02}.", "holds no arrays"),
        (b"", "pickle exhausted before seeing STOP"),
    ],
)
def test_other_pickles(tmp_path, data, said):
    assert said in refused(torch_writer.write(tmp_path / "a.pt", None, data=data))


def test_later_protocols(tmp_path):
    """Short strings, names from the stack and numbered memos."""
    name = lambda text: b"\x8c" + bytes([len(text)]) + text
    call = name(b"torch._utils") + name(b"_rebuild_tensor_v2") + b"\x93\x94"
    storage = b"(" + name(b"storage") + name(b"torch") + name(b"FloatStorage") + b"\x93" + name(b"0") + name(b"cpu")
    arguments = b"(" + storage + b"K\x06tQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89Nt"
    data = b"\x80\x04\x95" + struct.pack("<Q", 9) + b"}" + name(b"x") + call + arguments + b"Rs."
    state = {"x": STATE["a.weight"]}
    same(torch_files.read(torch_writer.write(tmp_path / "a.pt", None, state.values(), data=data)), state)


ROW = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"shape": (2, 4), "strides": (4, 1)}, "x claims the shape (2, 4), but 6 values are there"),
        ({"offset": 1}, "x claims the shape (6,), but 6 values are there"),
        ({"shape": (2, 2), "strides": (5, 1)}, "x claims the shape (2, 2), but 6 values are there"),
        ({"shape": (2**40,), "strides": (0,)}, "but 6 values are there"),
        ({"shape": (2**40, 0), "strides": (1, 1), "count": 2**50}, f"x is of {2**50} values of float32, but 24 bytes"),
        ({"count": 5}, "x is of 5 values of float32, but 24 bytes are there"),
        ({"dtype": "float64"}, "x is of 6 values of float64, but 24 bytes are there"),
        ({"shape": (-1,)}, "x has sizes that are no counts"),
        ({"strides": (-1,)}, "x has sizes that are no counts"),
        ({"offset": -1}, "x has sizes that are no counts"),
        ({"shape": (True,)}, "x has sizes that are no counts"),
        ({"shape": (2, 3)}, "x has sizes that are no counts"),
        ({"shape": (2**61,) * 10_000, "strides": (1,) * 10_000}, "x has sizes that are no counts"),
        ({"offset": 2**70}, "x has sizes that are no counts"),
    ],
)
def test_sizes_that_the_file_does_not_hold(tmp_path, own, said):
    assert said in refused(torch_writer.write(tmp_path / "a.pt", {"x": tensor(0, ROW, **own)}, [ROW]))


def test_other_contents_are_one_line(tmp_path):
    path = tmp_path / "a.pt"
    said = lambda *given, **more: refused(torch_writer.write(path, *given, **more))
    assert "its bytes data/7 are missing" in said({"x": tensor(7, ROW)}, [ROW])
    assert "its bytes data/../../x are missing" in said({"x": tensor("../../x", ROW)}, [ROW])
    assert "x is of type str, not an array" in said({"x": "word"})
    assert "holds no state dict, but a value of type list" in said([1])
    assert "3 is no name of an array" in said({3: tensor(0, ROW)}, [ROW])
    assert r"a\nb is no name of an array" in said({"a\nb": tensor(0, ROW)}, [ROW])
    assert "it is big-endian" in said({"x": tensor(0, ROW)}, [ROW], order=b"big")
    assert "members are compressed" in said({"x": tensor(0, ROW)}, [ROW], compression=zipfile.ZIP_DEFLATED)
    same(torch_files.read(torch_writer.write(path, {"x": tensor(0, ROW)}, [ROW], order=None)), {"x": ROW})
    assert "its pickle has" in said(None, data=b"\x80\x02" + b"N" * torch_files.LARGEST_PICKLE)
    np.savez(tmp_path / "a.npz", x=ROW)
    assert "holds no data.pkl" in refused(tmp_path / "a.npz")
    path.write_bytes(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + 30 * b"a")
    assert "torch.save's format from before 1.6" in refused(path)
    for data in (b"", b"a", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n" + bytes(8)):
        path.write_bytes(data)
        assert "save the weights alone as safetensors" in refused(path)
    assert "no such file" in refused(tmp_path / "none.pt")
    assert "no such file" in refused(tmp_path)


def test_encrypted_and_overlapping_members(tmp_path):
    path = torch_writer.save(tmp_path / "a.pt", STATE)
    data = bytearray(path.read_bytes())
    flags = data.index(b"PK\x01\x02") + 8
    data[flags] |= 1
    path.write_bytes(data)
    assert "is encrypted" in refused(path)
    # a hundred names for the same bytes
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", torch_writer.pickled({"x": tensor(0, ROW)}))
        file.writestr("archive/data/0", bytes(2**16))
        for key in range(1, 100):
            again = zipfile.ZipInfo(f"archive/data/{key}")
            again.header_offset, again.file_size = file.infolist()[1].header_offset, 2**16
            again.compress_size, again.CRC = 2**16, 0
            file.filelist.append(again)
            file.NameToInfo[again.filename] = again
    assert "its members claim more bytes than" in refused(path)


def test_a_type_that_is_not_read(tmp_path):
    header = b'{"x":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}'
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"ab")
    assert "x is of type F8_E4M3, which is not read" in refused(tmp_path / "a.safetensors")


def small_files():
    """A file of each format, as bytes."""
    stream = io.BytesIO()
    torch_writer.save(stream, STATE, lambda tree: {"epoch": 3, "state_dict": Attributes(tree, {"_metadata": {}})})
    header = b'{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[2],'
    header += b'"data_offsets":[24,28]},"__metadata__":{"format":"pt"}}'
    return [stream.getvalue(), struct.pack("<Q", len(header)) + header + bytes(28)]


def damaged(data, cut, flips):
    data = bytearray(data[: len(data) - cut])
    for place, value in flips:
        if data:
            data[place % len(data)] = value
    return bytes(data)


def attempt(read, given, refusal):
    """What is read, or what is said; any other exception is not caught."""
    try:
        return read(given), ""
    except refusal as error:
        return None, str(error)


def harmless(path):
    """Whatever is read, if it is read, is no more than the file holds."""
    found, said = attempt(torch_files.read, path, FileError)
    assert said.isprintable()
    if found is None:
        return None
    size = path.stat().st_size
    assert all(isinstance(array, np.ndarray) and array.nbytes <= size for array in found.values())
    return found


FLIPS = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=3)


@settings(max_examples=300)
@given(which=st.integers(0, 1), cut=st.one_of(st.just(0), st.integers(0, 900)), flips=FLIPS)
def test_damaged_files_are_refused_or_harmless(tmp_path, which, cut, flips):
    path, whole = tmp_path / "a", small_files()[which]
    path.write_bytes(damaged(whole, cut, flips))
    found = harmless(path)
    if found is not None and which == 0:  # its parts have checksums: what is read is what was written
        assert {array.shape for array in found.values()} <= {(2, 3), (2,)}


@settings(max_examples=500)
@given(cut=st.integers(0, 20), flips=FLIPS)
def test_damaged_pickles_are_refused_or_harmless(tmp_path, cut, flips):
    """The same in a zip file whose checksums are right."""
    tree = {name: tensor(key, array) for key, (name, array) in enumerate(STATE.items())}
    data = damaged(torch_writer.pickled({"epoch": 3, "state_dict": tree}), cut, flips)
    harmless(torch_writer.write(tmp_path / "a.pt", None, STATE.values(), data=data))


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            [b"N", b"}", b"]", b"(", b")", b"t", b"\x85", b"\x87", b"s", b"u", b"a", b"e", b"q\x00", b"h\x00"]
        )
        | st.sampled_from([b"j\x00\x00\x00\x00", b"]r\xff\xff\xff\xff", b"K\x01K\x02\x86"])
        | st.sampled_from([b"R", b"Q", b"b", b"K\x01", b"X\x01\x00\x00\x00a", b"ctorch\nFloatStorage\n", b"2", b"0"])
        | st.sampled_from([b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"\x93", b"\x94"]),
        max_size=40,
    )
)
def test_any_opcodes_end_in_a_tree_or_a_line(parts):
    _, said = attempt(torch_pickle.read, b"\x80\x02" + b"".join(parts) + b".", ValueError)
    assert "\n" not in said
