"""Each fix: needed where it breaks, applied once, and FederatedScope's own code then works."""

from __future__ import annotations

import ast
import re
import socket
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy
import pytest
from host_environment import Environment

from fs_fedmllm.hosts.federatedscope import compat
from fs_fedmllm.hosts.federatedscope.protobuf_messages import MESSAGES, build_module, file_description

FIX = {fix.name: fix for fix in compat.FIXES}


def on_federatedscope(environment: Environment, checkout: Path, code: str) -> str:
    """Run code with FederatedScope importable and unplugged; its output."""
    done = environment.run("-P", "-c", code, cwd=checkout, PYTHONPATH=str(checkout))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# --- messages -------------------------------------------------------------------------------------------------------


def test_the_description_is_what_federatedscope_ships(fs_source: Path) -> None:
    """Byte for byte the description inside FederatedScope's generated module, services included."""
    generated = (fs_source / "federatedscope" / "core" / "proto" / "gRPC_comm_manager_pb2.py").read_text()
    found = re.search(r"serialized_pb=\s*(b'.*')", generated)
    assert found
    assert file_description().SerializeToString() == ast.literal_eval(found.group(1))


def test_messages_of_known_bytes() -> None:
    """The wire format by hand: field 1 of MessageResponse is tag 0x0a; map entries are length-delimited."""
    module = build_module()
    assert [name for name in MESSAGES if not hasattr(module, name)] == []
    assert module.MessageResponse(msg="ok").SerializeToString() == b"\x0a\x02ok"
    request = module.MessageRequest()
    request.msg["a"].single_msg.int_value = 5
    assert request.SerializeToString() == b"\x0a\x09\x0a\x01a\x12\x04\x0a\x02\x10\x05"
    again = module.MessageRequest.FromString(request.SerializeToString())
    assert again == request and again.msg["a"].WhichOneof("type") == "single_msg"


def test_federatedscopes_message_survives_the_wire(environment: Environment, fs_checkout: Path) -> None:
    """FederatedScope's own Message class, to bytes and back, with every type that it can send."""
    code = """
from fs_fedmllm.hosts.federatedscope import compat
names = compat.apply_fixes()
from federatedscope.core.message import Message
from federatedscope.core.proto import gRPC_comm_manager_pb2 as pb2, gRPC_comm_manager_pb2_grpc, MessageRequest
assert pb2.MessageRequest is MessageRequest
sent = Message(msg_type='address', sender=3, receiver=[0, 7], state=11, timestamp=2.5,
               content={'host': 'näme', 'port': 50051, 'list': [1, 'two', [3.5]], 'ids': {4: 'x', -1: [2]}})
wire = sent.transform(to_list=True).SerializeToString()
got = Message()
got.parse(pb2.MessageRequest.FromString(wire).msg)
assert got.sender == 3 and got.receiver == [0, 7] and got.state == 11 and got.timestamp == 2.5, vars(got)
assert got.msg_type == 'address'
assert got.content == {'host': 'näme', 'port': 50051, 'list': [1, 'two', [3.5]], 'ids': {4: 'x', -1: [2]}}
import torch
para = Message(msg_type='model_para', sender=0, receiver=1, state=0, content={'w': torch.arange(6.).reshape(2, 3)})
got.parse(pb2.MessageRequest.FromString(para.transform(to_list=True).SerializeToString()).msg)
from federatedscope.core.auxiliaries.utils import param2tensor
assert torch.equal(param2tensor(got.content['w']), torch.arange(6.).reshape(2, 3))
print('survived', compat.apply_fixes())
"""
    assert on_federatedscope(environment, fs_checkout, code) == "survived []\n"


def test_messages_generated_anew_are_left_alone(
    fs_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = tmp_path / "core" / "proto" / "gRPC_comm_manager_pb2.py"
    generated.parent.mkdir(parents=True)
    monkeypatch.setattr(compat, "_package_folder", lambda: tmp_path)
    generated.write_text((fs_source / "federatedscope/core/proto/gRPC_comm_manager_pb2.py").read_text())
    assert FIX["protobuf-messages"].needed()
    generated.write_text("DESCRIPTOR = _descriptor_pool.Default().AddSerializedFile(b'')\n")
    assert not FIX["protobuf-messages"].needed()
    monkeypatch.setattr(compat, "_package_folder", lambda: None)
    assert not FIX["protobuf-messages"].needed()


def test_without_protobuf_federatedscope_says_so_itself(fs_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "_package_folder", lambda: fs_source / "federatedscope")
    monkeypatch.setattr(compat, "is_installed", lambda module: False)
    assert not FIX["protobuf-messages"].needed()


# --- numpy, scipy ---------------------------------------------------------------------------------------------------


def test_numpy_two_prints_as_numpy_one_and_the_log_parser_reads_it(
    environment: Environment, fs_checkout: Path
) -> None:
    """FederatedScope's own ``logline_2_wandb_dict`` on a line with a numpy number; its precision setting keeps it."""
    code = """
from fs_fedmllm.hosts.federatedscope import compat
compat.apply_fixes()
import numpy as np
np.set_printoptions(precision=6)
from federatedscope.core.auxiliaries.logging import logline_2_wandb_dict
line = str({'Role': 'Server #', 'Round': 1, 'Results_weighted_avg': {'acc': np.float64(0.5), 'n': np.int64(3)}})
print(line)
print(logline_2_wandb_dict(False, line, {}, raw_out=False)[1])
"""
    line = "{'Role': 'Server #', 'Round': 1, 'Results_weighted_avg': {'acc': 0.5, 'n': 3}}"
    parsed = {
        "Server #, Round": 1,
        "Server #, Results_weighted_avg/acc": 0.5,
        "Server #, Results_weighted_avg/n": 3,
    }
    assert on_federatedscope(environment, fs_checkout, code) == f"{line}\n{parsed}\n"


def test_numpy_fixes_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    options = numpy.get_printoptions()
    try:
        if FIX["numpy-repr"].needed():
            FIX["numpy-repr"].apply()
        assert repr(numpy.float64(0.5)) == "0.5" and not FIX["numpy-repr"].needed()
    finally:
        numpy.set_printoptions(**options)
    monkeypatch.setattr(numpy, "int", int, raising=False)
    assert not FIX["numpy-int"].needed()
    monkeypatch.delattr(numpy, "int")
    assert FIX["numpy-int"].needed()
    FIX["numpy-int"].apply()
    assert numpy.int(3.7) == 3 and not FIX["numpy-int"].needed()


def test_the_group_sampler_runs(environment: Environment, fs_checkout: Path) -> None:
    code = """
from fs_fedmllm.hosts.federatedscope import compat
compat.apply_fixes()
from federatedscope.core.sampler import GroupSampler
print(len(GroupSampler(client_num=6, client_info=[1., 2., 3., 4., 5., 6.], bins=3).sample(2)))
"""
    assert on_federatedscope(environment, fs_checkout, code) == "2\n"


def test_scipy_without_its_old_module(monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.sparse

    monkeypatch.setattr(compat.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, compat.SPARSE_MODULE, raising=False)
    assert FIX["scipy-sparse-csc"].needed()
    FIX["scipy-sparse-csc"].apply()
    try:
        assert sys.modules[compat.SPARSE_MODULE].csc_matrix is scipy.sparse.csc_matrix
        assert not FIX["scipy-sparse-csc"].needed()
    finally:
        del sys.modules[compat.SPARSE_MODULE]


# --- TensorFlow, host name ------------------------------------------------------------------------------------------


def test_tensorflow_two_is_hidden_from_federatedscopes_seeding(environment: Environment, fs_checkout: Path) -> None:
    """A stand-in tensorflow package, as bare as TensorFlow 2 is of ``set_random_seed``."""
    (environment.site_packages / "tensorflow.py").write_text("__version__ = '2.99'\n")
    code = """
from fs_fedmllm.hosts.federatedscope import compat
print('tensorflow-seed' in compat.apply_fixes(), compat.apply_fixes())
from federatedscope.core.auxiliaries.utils import setup_seed
setup_seed(1)
import tensorflow
print(vars(tensorflow).get('set_random_seed'))
"""
    assert on_federatedscope(environment, fs_checkout, code) == "True []\nNone\n"


def test_tensorflow_one_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(compat.UTILS_MODULE)
    vars(module)["tf"] = SimpleNamespace(set_random_seed=lambda seed: None)
    monkeypatch.setitem(sys.modules, compat.UTILS_MODULE, module)
    monkeypatch.setattr(compat, "_package_folder", lambda: Path("."))
    monkeypatch.setattr(compat.importlib.util, "find_spec", lambda name: object())
    assert not FIX["tensorflow-seed"].needed()


def test_a_host_name_that_does_not_resolve(environment: Environment, fs_checkout: Path, tmp_path: Path) -> None:
    """The plain ``update_logger`` fails; the wrapped one logs the loopback address and leaves ``socket`` as it was."""
    code = f"""
import socket
def unknown(name):
    raise socket.gaierror(-2, 'Name or service not known')
socket.gethostbyname = unknown
from federatedscope.core.configs.config import global_cfg
import federatedscope.core.auxiliaries.logging as fs_logging
cfg = global_cfg.clone()
cfg.outdir = {str(tmp_path)!r}
try:
    fs_logging.update_logger(cfg.clone(), clear_before_add=True)
except socket.gaierror:
    print('breaks without')
from fs_fedmllm.hosts.federatedscope import compat
print('hostname' in compat.apply_fixes(), compat.apply_fixes())
cfg.expname = 'fixed'
fs_logging.update_logger(cfg, clear_before_add=True)
print(socket.gethostbyname is unknown)
"""
    assert on_federatedscope(environment, fs_checkout, code) == "breaks without\nTrue []\nTrue\n"
    (log,) = tmp_path.glob("fixed/exp_print.log")
    assert "the current machine is at 127.0.0.1" in log.read_text()


def test_a_host_name_that_resolves_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    compat._own_name_resolves.cache_clear()
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "10.0.0.1")
    monkeypatch.setattr(compat, "_package_folder", lambda: Path("."))
    try:
        assert not FIX["hostname"].needed()
    finally:
        compat._own_name_resolves.cache_clear()


# --- all together ---------------------------------------------------------------------------------------------------


def test_what_is_needed_is_applied_and_then_no_longer_needed(environment: Environment, fs_checkout: Path) -> None:
    code = """
import sys
from fs_fedmllm.hosts.federatedscope import compat
needed = [fix.name for fix in compat.FIXES if fix.needed()]
assert compat.apply_fixes() == needed
assert not [fix.name for fix in compat.FIXES if fix.needed()]
print('torch' in sys.modules, [name for name in sys.modules if name.startswith('federatedscope')
                              and name != compat.MESSAGES_MODULE and 'hostname' not in needed])
"""
    assert on_federatedscope(environment, fs_checkout, code) == "False []\n"


def test_without_federatedscope_nothing_of_its_own_is_needed(environment: Environment, tmp_path: Path) -> None:
    code = """
import sys
sys.modules['federatedscope'] = None
from fs_fedmllm.hosts.federatedscope import compat
print([fix.name for fix in compat.FIXES if fix.needed() and not fix.name.startswith('numpy')])
"""
    done = environment.run("-P", "-c", code, cwd=tmp_path)
    assert done.stdout == "[]\n", done.stderr
