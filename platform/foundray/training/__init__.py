"""The elastic run. The exact step is `flat → gradient_sum → optimizer → step`; around it `worker`, `checkpoint`, `driver`."""
