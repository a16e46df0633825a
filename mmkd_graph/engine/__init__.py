"""What guards a training (its runner, the lock on its work dir, a quiet end at signals), and what the tools share.

The modules are imported one by one: ``start`` and ``interrupts`` have to be there before torch and mmdet are.
"""
