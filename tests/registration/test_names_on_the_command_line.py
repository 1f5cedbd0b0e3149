# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The real `anomalib` command knows the model and the data modules in every subcommand."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from interpreter import SMALL, python, run_prepared

ANOMALIB = Path(sys.executable).with_name("anomalib")
MODEL = "anomalib_transfusion.TransFusion"
#: What a person types after the subcommand, besides the model.
ARGUMENTS = {
    "train": ["--data", "MVTec", "--data.category", "cable"],
    "fit": ["--data", "MVTec", "--data.category", "cable"],
    "validate": ["--data", "anomalib.data.MVTec", "--data.category", "cable"],
    "test": ["--data", "DemoSurface", "--data.category", "gravel"],
    "predict": ["--data", "photographs"],
    "export": ["--export_type", "torch"],
}
DATA = {
    "train": "anomalib_transfusion.MVTec",
    "fit": "anomalib_transfusion.MVTec",
    "validate": "anomalib.data.MVTec",
    "test": "anomalib_transfusion.DemoSurface",
}
SMALL_NETWORK = [
    "--model.base_channels",
    "8",
    "--model.channel_multipliers",
    "[1, 2]",
    "--model.attention_levels",
    "[1]",
]


def _printed_config(*arguments, cwd):
    """Let the command print what it understood."""
    result = run_prepared([ANOMALIB, *arguments, "--print_config"], cwd=cwd)
    assert result.returncode == 0, result.stderr
    return yaml.safe_load(result.stdout[result.stdout.index("# anomalib==") :])


# The data set is MVTec for those that train: `train` by a file is below.
@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict", "export"])
def test_subcommand(subcommand, tmp_path):
    model = MODEL if subcommand == "validate" else "TransFusion"
    arguments = [subcommand, "--model", model, *SMALL_NETWORK, *ARGUMENTS[subcommand]]
    config = _printed_config(*arguments, cwd=tmp_path)
    assert config["model"]["class_path"] == MODEL
    assert config["model"]["init_args"]["channel_multipliers"] == [1, 2]
    assert config["model"]["init_args"]["timesteps"] == 20
    if subcommand in DATA:
        assert config["data"]["class_path"] == DATA[subcommand]
        assert config["data"]["init_args"]["train_batch_size"] == 8


def test_train_with_a_configuration_file(tmp_path):
    config = {
        "model": {"class_path": "TransFusion", "init_args": SMALL},
        "data": {"class_path": "MVTec", "init_args": {"category": "cable"}},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    understood = _printed_config("train", "--config", "run.yaml", cwd=tmp_path)
    assert understood["model"]["class_path"] == MODEL
    assert understood["model"]["init_args"].items() >= SMALL.items()
    assert understood["data"]["class_path"] == "anomalib_transfusion.MVTec"
    assert understood["data"]["init_args"]["category"] == "cable"


def test_a_parameter_that_does_not_exist(tmp_path):
    """The command is wrong only in that: it ends with an error that names the parameter."""
    arguments = ["train", "--model", "TransFusion", *ARGUMENTS["train"], "--model.color", "3"]
    result = run_prepared([ANOMALIB, *arguments], cwd=tmp_path)
    assert result.returncode != 0
    assert "color" in result.stderr
    assert "TransFusion" in result.stderr
    assert not (tmp_path / "results").exists()


INSTANTIATE = """
import json, sys
from anomalib.cli.cli import AnomalibCLI
results = {}
for subcommand, model, arguments in json.loads(sys.argv[1]):
    cli = AnomalibCLI([subcommand, "--model", model, *arguments, "--trainer.accelerator", "cpu"], run=False)
    import anomalib.data, anomalib.models
    assert type(cli.model) is anomalib.models.TransFusion, subcommand
    assert cli.engine is not None and cli.model.model.network is not None
    results[f"{subcommand} {model}"] = [
        sum(parameter.numel() for parameter in cli.model.parameters()),
        type(cli.datamodule).__name__,
    ]
print(json.dumps(results))
"""


def test_every_subcommand_builds_the_model(tmp_path):
    """Like the command, up to the point where the subcommand starts."""
    commands = [
        (subcommand, model, [*SMALL_NETWORK, *arguments])
        for subcommand, arguments in ARGUMENTS.items()
        for model in ("TransFusion", MODEL)
    ]
    program = f"import sys\nsys.argv[1:] = [{json.dumps(commands)!r}]\n{INSTANTIATE}"
    results = json.loads(python(program, cwd=tmp_path).stdout.splitlines()[-1])
    assert len(results) == 2 * len(ARGUMENTS)
    for command, (parameters, datamodule) in results.items():
        subcommand = command.split()[0]
        assert 10_000 < parameters < 200_000, command
        if subcommand in DATA:
            assert datamodule == DATA[subcommand].split(".")[-1]
