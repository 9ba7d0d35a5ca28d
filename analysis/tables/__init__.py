"""Tables: each registers itself by the decorator of `analysis.registry`; what several share lies beside them."""
