"""What files are: columns, times, series, grid."""
