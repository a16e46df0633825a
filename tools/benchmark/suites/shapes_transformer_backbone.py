# The same with the losses between the stages of the backbones, where the two differ most: no common neck comes before.
_base_ = './shapes_transformer.py'
distiller = dict(taps='backbone')
