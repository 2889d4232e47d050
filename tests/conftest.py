import utils.threads  # noqa: F401  isort: skip  before torch
