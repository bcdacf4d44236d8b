"""Many workers as one: lost, preempted, hanging, replaced."""
