"""Published recipes, one module for each family of models; `configs.ssm` is the protocol of them all."""
