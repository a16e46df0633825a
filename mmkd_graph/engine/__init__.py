"""What guards a training: its runner, the lock on its work dir, and a quiet end at signals.

The modules are imported one by one: ``interrupts`` has to be there before torch and mmdet are.
"""
