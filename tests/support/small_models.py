"""Parameters with which every model is fitted in a moment on a small panel."""

SHORT = {"epochs": 3, "batch_rows": 256}  # of a net
PARAMS = {
    "window_mean": {"window_steps": 3},
    "har": {"windows_steps": [1, 3]},
    "lightgbm": {"min_data_in_leaf": 20},
    "xgboost": {"min_child_weight": 20},
    "catboost": {"depth": 3},
    "mlp": SHORT,
    "nlinear": SHORT,
    "gru": SHORT,
    "lstm": SHORT,
    "patch_transformer": SHORT | {"patch_steps": 2, "stride_steps": 1},
    "sklearn": {"estimator": "tree.DecisionTreeRegressor", "params": {"max_depth": 4}},
}
