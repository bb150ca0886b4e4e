"""tidemill keeps a LightGBM model up to date while that model is serving."""
