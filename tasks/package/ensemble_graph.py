"""A release as one ONNX graph: its members, their combination, and the quantiles of CQR.

The combination is that of tasks.release.combine, operation by operation, in float64. What does not
convert keeps a graph of its own, or stays in tasks.release.outputs: members of another opset,
weights that move with each outcome, and a kind whose link is not the identity. The offsets of the
intervals are not in the graph: they are replayed from the outcomes known by each cutoff.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tasks.core.errors import ReleaseError
from tasks.core.schema import SERIES_KEY, FeatureSchema
from tasks.forecasters.graph.graph_ops import IR_VERSION, ML_OPSET, OPSET, GraphBuilder, GraphValue
from tasks.forecasters.graph.subgraph import run_subgraph
from tasks.release import Release
from tasks.release.combine import Combination, Ranks, Weights, find_recency
from tasks.release.load import load_graph
from tasks.release.manifest import BASES, GRAPH, Z_HAT, EnsembleSpec, get_member_output
from tasks.release.outputs import run_outputs

_INT64, _DOUBLE = 7, 11  # of onnx.TensorProto
_KEY_HALF = 1 << 24  # as in tasks.release.combine
MAX_GRAPH_DIFFERENCE = 1e-6  # of the larger of 1 and the number itself
_N_PROBES, _UNKNOWN_FRAC, _PROBE_SEED = 64, 0.05, 1
_PROBE = np.array([[-2.5, 0.0, 0.3, 7.0]], dtype=np.float32)


class EnsembleGraph(NamedTuple):
    """The graph as bytes; None without a member that converts.

    left_out: members that have a graph of their own.
    """

    content: bytes | None
    left_out: tuple[str, ...]


def build_ensemble_graph(release: Release, graphs: Mapping[str, bytes]) -> EnsembleGraph:
    """The graph of *release*, from x (n, F) to every output that converts.

    graphs: that of each member. Same graphs, same bytes.
    """
    import onnx

    models = {name: onnx.load_from_string(content) for name, content in sorted(graphs.items())}
    left_out = tuple(name for name, model in models.items() if not _is_mergeable(model))
    if len(left_out) == len(models):
        return EnsembleGraph(None, left_out)
    builder = GraphBuilder()
    x = GraphValue(builder, "x")
    z_hats = {
        name: run_subgraph(np.frombuffer(content, dtype=np.uint8), x)
        for name, content in sorted(graphs.items())
        if name not in left_out
    }
    outputs = {get_member_output(name): z_hat for name, z_hat in z_hats.items()}
    if np.array_equal(release.kind.link(_PROBE), _PROBE):
        outputs |= _build_combined(release, x, z_hats)
    return EnsembleGraph(_serialize(release.schema, builder, outputs), left_out)


def check_ensemble_graph(release: Release, graphs: Mapping[str, bytes], content: bytes) -> None:
    """Compare the one graph with the members' own, output by output, on made-up rows.

    Rows as standardised features are, some of them unknown.
    Raises ReleaseError that names the output that differs by more than MAX_GRAPH_DIFFERENCE.
    """
    schema = release.schema
    rng = np.random.default_rng(_PROBE_SEED)
    x = rng.normal(size=(_N_PROBES, len(schema.columns))).astype(np.float32)
    x[rng.random(x.shape) < _UNKNOWN_FRAC] = np.nan
    x[:, schema.index(schema.last)] = rng.normal(size=_N_PROBES)
    members = {name: load_graph(content, name) for name, content in graphs.items()}
    apart, in_one = replace(release, members=members), replace(release, graph=load_graph(content, GRAPH))
    outputs = sorted(in_one.graph_outputs)
    for output, *pair in zip(
        outputs, run_outputs(apart, x, outputs), run_outputs(in_one, x, outputs), strict=True
    ):
        expected, actual = np.nan_to_num(np.array(pair))
        difference = np.abs(actual - expected) / np.maximum(np.abs(expected), 1.0)
        difference[np.isnan(pair[0]) != np.isnan(pair[1])] = np.inf
        if not (worst := float(difference.max(initial=0.0))) <= MAX_GRAPH_DIFFERENCE:
            raise ReleaseError(
                f"The one graph gives {output!r} with a difference of {worst:.1e} to the members' own graphs;"
                f" at most {MAX_GRAPH_DIFFERENCE:g} is allowed. A member computes other numbers next to"
                " others: report it with the entry of the model."
            )


def _build_combined(release: Release, x: GraphValue, z_hats: dict[str, GraphValue]) -> dict[str, GraphValue]:
    """Z_HAT and BASES, as far as all of their members are in the graph."""
    outputs = {}
    combination, ensemble = release.combination, release.ensemble
    if set(combination.members) <= z_hats.keys() and _is_convertible(combination):
        stacked = _stack([z_hats[name] for name in combination.members], release.schema.horizon_steps)
        outputs[Z_HAT] = (
            _combine_by_rank(combination, stacked)
            if isinstance(combination, Ranks)
            else _combine_by_weight(combination, stacked, _build_group(combination, x, release.schema))
        )
    names = {name for of in ensemble.quantile_members.values() for name in of}
    if names and names <= z_hats.keys():
        outputs[BASES] = _average_quantiles(ensemble, z_hats)
    return outputs


def _is_convertible(combination: Combination) -> bool:
    """Not where weights move, or may sum to 0 over some members."""
    if isinstance(combination, Ranks):
        return True
    return not find_recency(combination) and (combination.whole or np.min(combination.table) >= 0)


def _stack(z_hats: list[GraphValue], n_steps: int) -> GraphValue:
    """(M, n, H) float64: onnxruntime adds up along the first axis six times as fast as along M."""
    node = z_hats[0].graph.node
    joined = node("Concat", *z_hats, axis=0) if len(z_hats) > 1 else z_hats[0]
    return node("Cast", node("Reshape", joined, np.array([len(z_hats), -1, n_steps])), to=_DOUBLE)


def _combine_by_weight(combination: Weights, z_hats: GraphValue, group: GraphValue | None) -> GraphValue:
    """As `compute_weighted_average`, but divided by the sum of the known weights in any case.

    Of all members that sum is 1 up to rounding.
    """
    graph = z_hats.graph
    node, zero = graph.node, graph.constant(np.zeros(1))
    table = graph.constant(np.asarray(combination.table, dtype=np.float64).transpose(1, 0, 2).copy())
    weights = table if group is None else node("Gather", table, group, axis=1)
    is_unknown = _build_unknown(z_hats)
    out = _sum_members(node("Where", is_unknown, zero, weights * z_hats))
    if not combination.whole:
        return out / _sum_members(node("Where", is_unknown, zero, weights))
    lost = _sum_members(node("Where", is_unknown, node("Abs", weights), zero))
    return node("Where", node("Equal", lost, zero), out, graph.constant(np.array([np.nan])))


def _combine_by_rank(combination: Ranks, z_hats: GraphValue) -> GraphValue:
    graph, n_members = z_hats.graph, len(combination.members)
    node, zero = graph.node, graph.constant(np.zeros(1))
    is_unknown = _build_unknown(z_hats)
    n_unknown = _sum_members(node("Cast", is_unknown, to=_INT64))
    last = graph.constant(np.array([np.inf]))
    # The lowest first and those that are unknown at the end
    by_rank = node("Where", is_unknown, last, z_hats)
    ordered = node("TopK", by_rank, np.array([n_members]), n_outputs=2, axis=0, largest=0)
    table = graph.constant(np.asarray(combination.table, dtype=np.float64)[::-1].T.copy())
    known = node("Where", node("IsInf", ordered), zero, ordered)
    out = _sum_members(node("Gather", table, n_unknown, axis=1) * known)
    is_none = node("Equal", n_unknown, graph.constant(np.array([n_members])))
    return node("Where", is_none, graph.constant(np.array([np.nan])), out)


def _sum_members(values: GraphValue) -> GraphValue:
    return values.graph.node("ReduceSum", values, np.array([0]), keepdims=0)


def _build_unknown(values: GraphValue) -> GraphValue:
    """Whether each is NaN or infinite."""
    return values.graph.node("IsNaN", values - values)


def _build_group(combination: Weights, x: GraphValue, schema: FeatureSchema) -> GraphValue | None:
    """(n,) row of the table; None where there is one row."""
    node, constant = x.graph.node, x.graph.constant

    def take(name: str) -> GraphValue:
        return node("Cast", node("Gather", x, np.array([schema.index(name)]), axis=1), to=_DOUBLE)

    if combination.regime:
        above = constant(np.array([combination.regime.above]))
        is_above = node("Cast", node("Greater", take(combination.regime.column), above), to=_INT64)
        return node("ReduceSum", is_above, np.array([1]), keepdims=0)
    if not combination.series:
        return None
    unknown = constant(np.array([-1.0]))
    high, low = (
        node("Cast", node("Where", node("IsNaN", half), unknown, half), to=_INT64)
        for half in map(take, SERIES_KEY)
    )
    keys = [high_half * _KEY_HALF + low_half for high_half, low_half in combination.series]
    group = node(
        "LabelEncoder",
        high * constant(np.array([_KEY_HALF])) + low,
        domain="ai.onnx.ml",
        keys_int64s=keys,
        values_int64s=list(range(len(keys))),
        default_int64=len(keys),
    )
    return node("Squeeze", group, np.array([1]))


def _average_quantiles(ensemble: EnsembleSpec, z_hats: dict[str, GraphValue]) -> GraphValue:
    """(n, H, Q) means of the members of each quantile."""
    node = next(iter(z_hats.values())).graph.node
    doubles = {name: node("Cast", z_hat, to=_DOUBLE) for name, z_hat in z_hats.items()}
    means = []
    for names in ensemble.list_quantile_members():
        total = doubles[names[0]]
        for name in names[1:]:
            total = total + doubles[name]
        mean = total / total.graph.constant(np.array([float(len(names))]))
        means.append(node("Unsqueeze", mean, np.array([2])))
    return node("Concat", *means, axis=2)


def _is_mergeable(model: Any) -> bool:
    """Whether the graph has our operators' versions, one input and one output, and no functions."""
    versions = {opset.domain: opset.version for opset in model.opset_import}
    return (
        versions.items() <= {"": OPSET, "ai.onnx.ml": ML_OPSET}.items()
        and not model.functions
        and len(model.graph.input) == len(model.graph.output) == 1
    )


def _serialize(schema: FeatureSchema, builder: GraphBuilder, outputs: dict[str, GraphValue]) -> bytes:
    from onnx import TensorProto, checker, helper

    infos = []
    for name, value in outputs.items():
        builder.node("Identity", value)
        builder.nodes[-1].output[0] = name
        is_double = name in {Z_HAT, BASES}
        shape = ["n", schema.horizon_steps, None] if name == BASES else ["n", schema.horizon_steps]
        kind = TensorProto.DOUBLE if is_double else TensorProto.FLOAT
        infos.append(helper.make_tensor_value_info(name, kind, shape))
    graph_input = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", len(schema.columns)])
    nodes, constants = _merge_equal(builder, set(outputs))
    graph = helper.make_graph(nodes, "ensemble", [graph_input], infos, constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="tidemill")
    checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _merge_equal(builder: GraphBuilder, outputs: set[str]) -> tuple[list[Any], list[Any]]:
    """Nodes and constants without those that are equal to an earlier one, as members share them.

    outputs: of the graph, whose nodes stay.
    """
    names: dict[str, str] = {}
    first: dict[bytes, Any] = {}
    constants, nodes = [], []
    for constant in builder.constants:
        kept = first.setdefault(_get_content(constant), constant)
        names[constant.name] = kept.name
        if kept is constant:
            constants.append(constant)
    for node in builder.nodes:
        _update_inputs([node], names)
        kept = node if outputs & set(node.output) else first.setdefault(_get_content(node), node)
        names |= dict(zip(node.output, kept.output, strict=True))
        if kept is node:
            nodes.append(node)
    return nodes, constants


def _get_content(part: Any) -> bytes:
    """A node or a constant without the names that it gives."""
    copy = type(part)()
    copy.CopyFrom(part)
    copy.ClearField("name")
    if hasattr(copy, "output"):
        del copy.output[:]
    content: bytes = copy.SerializeToString(deterministic=True)
    return content


def _update_inputs(nodes: Any, names: Mapping[str, str]) -> None:
    """Rename what *nodes* read, also in the bodies of loops."""
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _update_inputs(attribute.g.node, names)
                for output in attribute.g.output:
                    output.name = names.get(output.name, output.name)
