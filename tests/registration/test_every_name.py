# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Every way in which anomalib finds a model or a data module by name."""

import json

import pytest
from interpreter import SMALL, python

BY_DICT = "get_model({{'class_path': '{}', 'init_args': SMALL}})"
MODELS = {
    "snake": "get_model('trans_fusion', **SMALL)",
    "pascal": "get_model('TransFusion', **SMALL)",
    "dict": BY_DICT.format("TransFusion"),
    "dict and keywords": "get_model({'class_path': 'TransFusion'}, **SMALL)",
    "dict with path": BY_DICT.format("anomalib.models.TransFusion"),
    "dict with path of the image models": BY_DICT.format("anomalib.models.image.TransFusion"),
    "import": "__import__('anomalib.models', fromlist=['TransFusion']).TransFusion(**SMALL)",
    "from_config": "anomalib.models.TransFusion.from_config('model.yaml')",
    "from_config of the base class": "anomalib.models.AnomalibModule.from_config('model.yaml')",
    "engine": "Engine.from_config('run.yaml')[1]",
    "benchmark": "job().model",
}
DATA = {
    "name": "get_datamodule({'class_path': 'MVTec', 'init_args': MVTEC})",
    "path": "get_datamodule({'class_path': 'anomalib.data.MVTec', 'init_args': MVTEC})",
    "engine": "Engine.from_config('run.yaml')[2]",
    "benchmark": "job().datamodule",
}
PROGRAM = """
import json, sys
import anomalib.models
from anomalib.models import get_model, list_models
SMALL = json.loads(sys.argv[1])
MVTEC = {"category": "cable"}

def job():
    from anomalib.pipelines.benchmark.generator import BenchmarkJobGenerator
    model = {"class_path": "TransFusion", "init_args": SMALL}
    data = {"class_path": "MVTec", "init_args": MVTEC}
    (job,) = BenchmarkJobGenerator("cpu").generate_jobs({"seed": 1, "model": model, "data": data}, None)
    return job

results = {}
for name, expression in json.loads(sys.argv[2]).items():
    if "Engine" in expression:
        from anomalib.engine import Engine
    if "get_datamodule" in expression:
        from anomalib.data import get_datamodule
    found = eval(expression)
    results[name] = {
        "type": f"{type(found).__module__}:{type(found).__name__}",
        "known": [getattr(m, type(found).__name__, None) is type(found) for m in (anomalib.models, anomalib.data)],
    }
    if hasattr(found, "parameters"):
        results[name]["parameters"] = sum(parameter.numel() for parameter in found.parameters())
    else:
        results[name]["batch sizes"] = [found.train_batch_size, found.eval_batch_size]
        results[name]["category"] = found.category
results["list_models"] = [sorted(list_models(case)) for case in ("snake", "pascal")]
print(json.dumps(results))
"""


def _look_up(ways, folder):
    """Evaluate each way in one fresh interpreter."""
    model = {"class_path": "TransFusion", "init_args": SMALL}
    data = {"class_path": "MVTec", "init_args": {"category": "cable"}}
    # JSON is YAML.
    (folder / "model.yaml").write_text(json.dumps({"model": model}), encoding="utf-8")
    (folder / "run.yaml").write_text(json.dumps({"model": model, "data": data}), encoding="utf-8")
    program = f"import sys\nsys.argv[1:] = {[json.dumps(SMALL), json.dumps(ways)]!r}\n{PROGRAM}"
    return json.loads(python(program, cwd=folder).stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each way gives."""
    ways = {f"model: {name}": way for name, way in MODELS.items()} | {
        f"data: {name}": way for name, way in DATA.items()
    }
    return _look_up(ways, tmp_path_factory.mktemp("names"))


def _check_model(result):
    assert result["type"] == "anomalib_transfusion.models.transfusion.lightning_model:TransFusion"
    assert result["known"] == [True, False]
    # The default network has 54.6 million: the small one's arguments have arrived.
    assert 10_000 < result["parameters"] < 200_000


def _check_data(result):
    assert result["type"] == "anomalib_transfusion.data.mvtec:MVTec"
    assert result["known"] == [False, True]
    assert result["batch sizes"] == [8, 8]
    assert result["category"] == "cable"


@pytest.mark.parametrize("way", MODELS)
def test_model(way, found):
    _check_model(found[f"model: {way}"])


@pytest.mark.parametrize("way", DATA)
def test_data_module(way, found):
    _check_data(found[f"data: {way}"])


def test_list_models(found):
    snake, pascal = found["list_models"]
    assert snake.count("trans_fusion") == 1
    assert pascal.count("TransFusion") == 1
    assert "padim" in snake


@pytest.mark.slow
@pytest.mark.parametrize("way", MODELS)
def test_model_in_its_own_interpreter(way, tmp_path):
    _check_model(_look_up({"it": MODELS[way]}, tmp_path)["it"])


@pytest.mark.slow
@pytest.mark.parametrize("way", DATA)
def test_data_module_in_its_own_interpreter(way, tmp_path):
    _check_data(_look_up({"it": DATA[way]}, tmp_path)["it"])
