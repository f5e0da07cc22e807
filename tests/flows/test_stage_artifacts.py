"""What Prefect's UI shows of a stage: a row for each figure, and a chart."""

import base64

import yaml
from reports import retrain_decision

from flows._artifacts import CHART_BYTES, ROWS_SHOWN, build_table, read_figures, render_charts
from tasks.core.reports.retrain import RetrainDecision
from tasks.edges.artifacts import write_report


def root_of(folder, dataset="small"):
    (folder / "params.yaml").write_text(yaml.safe_dump({"dataset": dataset, "datasets": {dataset: {}}}))
    lock = {"outs": [{"path": "data/decisions/retrain"}], "params": {"params.yaml": {"dataset": "small"}}}
    (folder / "dvc.lock").write_text(yaml.safe_dump({"stages": {"retrain": lock}}))
    write_report(folder / RetrainDecision.PATH, retrain_decision(facts={"age_steps": 12, "error_ratio": 1.5}))
    return folder


def test_a_stage_has_a_row_for_each_figure_and_bars_where_it_has_no_chart_of_its_own(tmp_path):
    contents = read_figures("retrain", root_of(tmp_path))
    rows = {row["figure"]: row["value"] for row in build_table(contents)}
    assert (rows["due"], rows["facts.age_steps"], rows["facts.error_ratio"]) == ("False", "12", "1.5")
    markdown = render_charts("retrain", contents, tmp_path)
    kind, encoded = markdown.removesuffix(")").split("(data:")[1].split(";base64,")
    assert kind == "image/svg+xml"
    drawn = base64.b64decode(encoded).decode()
    assert "age_steps" in drawn
    assert len(markdown) < CHART_BYTES


def test_a_report_of_another_dataset_is_not_shown(tmp_path):
    contents = read_figures("retrain", root_of(tmp_path, dataset="large"))
    assert contents == {}
    assert build_table(contents) == [{"figure": "none", "value": "this stage wrote no figures"}]
    assert "no figures to draw" in render_charts("retrain", contents, tmp_path)


def test_several_files_are_columns_and_the_rest_of_many_figures_is_counted():
    many = {f"f{i}": i for i in range(ROWS_SHOWN + 2)}
    *rows, last = build_table({"ridge": many, "mlp": {"f0": 0.123456789}})
    assert rows[0] == {"figure": "f0", "ridge": "0", "mlp": "0.123457"}
    assert rows[1] == {"figure": "f1", "ridge": "1", "mlp": ""}
    assert (len(rows), last) == (ROWS_SHOWN, {"figure": "... and 2 more, in the file"})
