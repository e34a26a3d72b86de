"""What every test of a GPU needs to begin with."""

import pytest
import torch

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
