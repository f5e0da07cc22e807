"""Boosted trees and scikit-learn's regressors, on what a simpler model leaves over."""
