"""Local control: ControlNets and T2I-Adapters that act only where they are asked to."""
