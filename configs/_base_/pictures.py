# Draws what distillation did to the student's channel graphs, and every loss term, into work_dir/pictures/.
custom_hooks = [dict(type='mmkd_graph.GraphPicturesHook')]
