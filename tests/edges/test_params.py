import pytest
import yaml

from tasks.core.errors import ParamsError
from tasks.edges.params import STAGES, read_about, read_dataset, read_document, read_models, read_params
from tasks.edges.settings import ROOT
from tasks.train.params import TrainParams


@pytest.fixture
def edited(tmp_path):
    def edit(change):
        document = yaml.safe_load((ROOT / "params.yaml").read_text())
        change(document)
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        return tmp_path

    return edit


def _entry(document):
    return document["datasets"][document["dataset"]]


def test_a_datasets_section_lies_over_the_stages_own(edited):
    root = edited(lambda d: (d["train"].update(seed=7, n_cutoffs=1), _entry(d)["train"].update(n_cutoffs=9)))
    params = read_params("train", TrainParams, root)
    assert (params.seed, params.n_cutoffs) == (7, 9)


def test_an_unknown_key_is_refused_by_name(edited):
    root = edited(lambda d: _entry(d)["train"].update(n_cutofs=3))
    with pytest.raises(ParamsError, match="n_cutofs"):
        read_params("train", TrainParams, root)


def test_an_unknown_dataset_is_refused_with_the_known_ones(edited):
    root = edited(lambda d: d.update(dataset="nowhere"))
    with pytest.raises(ParamsError, match=r"nowhere.*index_volatility"):
        read_dataset(root)


@pytest.mark.parametrize("stage", [*STAGES, "models"])
def test_a_missing_section_is_named(edited, stage):
    root = edited(lambda d: _entry(d).pop(stage))
    with pytest.raises(ParamsError, match=stage):
        read_about(root)


def test_a_stale_list_of_models_says_which_command_fixes_it(edited):
    root = edited(lambda d: d["models"].pop())
    with pytest.raises(ParamsError, match="tidemill use"):
        read_models(root)


def test_quantiles_out_of_order_are_refused(edited):
    root = edited(lambda d: _entry(d)["about"].update(quantiles=[0.9, 0.1]))
    with pytest.raises(ParamsError, match="rise"):
        read_about(root)


def test_the_gates_length_is_the_datasets_when_it_has_one(edited):
    root = edited(lambda d: _entry(d)["promote"].update(gate_steps=33))
    assert read_document(root).gate_steps == 33


def test_what_ships_is_valid():
    assert read_about().horizon_steps == 5
    assert read_params("train", TrainParams).stride_steps >= 1
