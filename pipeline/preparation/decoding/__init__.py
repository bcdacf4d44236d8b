"""The only place that opens foreign images and captions."""
