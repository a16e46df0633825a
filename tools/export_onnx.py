"""Export a published student to ONNX with mmdeploy, and compare what ONNX Runtime finds with what PyTorch finds.

Boxes, scores and labels after NMS are the outputs; sizes of images and batches are dynamic. docs/deployment.md says how
to install mmdeploy, and what was tried.

Example:
    export_onnx.py student-1a2b3c4d.pth student.onnx --images data/shapes/VOC2007/JPEGImages/test_00000.jpg
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import sys
import warnings
from pathlib import Path
from typing import Any

try:
    from mmkd_graph.engine.start import start
except ModuleNotFoundError as error:
    sys.exit(
        f'export_onnx.py: error: {sys.executable} has no {error.name}; in the root of the checkout: '
        'source .venv/bin/activate if there is a .venv, else make install'
    )

if __name__ == '__main__':
    start()

import numpy as np
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.logging import MMLogger
from torch.fx import _symbolic_trace

from mmkd_graph.distillers.weights import read_checkpoint
from mmkd_graph.engine.interrupts import ended_by_signals
from mmkd_graph.engine.launch import fail

PIXELS, SCORE = 0.01, 1e-4
"""How far boxes (in pixels of the image) and scores may be apart."""


class _LastFirst(dict):
    """torch.fx keeps a dict where it kept the list that mmdeploy shortens from its end."""

    def pop(self, key: Any, *default: Any) -> Any:
        return self.popitem() if key == -1 else super().pop(key, *default)


def import_mmdeploy() -> Any:
    """mmdeploy's ``torch2onnx``, which is of 2023, for the torch of today."""
    try:
        import mmdeploy  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        fail(
            f'{error}; accepted: an environment with mmdeploy: pip install --no-deps mmdeploy==1.3.1; '
            'pip install onnx onnxruntime aenum grpcio multiprocess prettytable'
        )
    if not isinstance(_symbolic_trace._wrapped_fns_to_patch, list):
        _symbolic_trace._wrapped_fns_to_patch = _LastFirst(_symbolic_trace._wrapped_fns_to_patch)
    if 'dynamo' in inspect.signature(torch.onnx.export).parameters:  # it rewrites models for the older exporter
        torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)
    from mmdeploy.apis import torch2onnx

    return torch2onnx


def deploy_config(name: str) -> Config:
    """mmdeploy's ``detection_onnxruntime_dynamic.py``. A model's ``test_cfg`` comes before these thresholds."""
    dynamic = {0: 'batch', 1: 'num_dets'}
    return Config(
        dict(
            onnx_config=dict(
                type='onnx',
                export_params=True,
                keep_initializers_as_inputs=False,
                opset_version=11,
                save_file=name,
                input_names=['input'],
                output_names=['dets', 'labels'],
                input_shape=None,
                optimize=False,
                dynamic_axes=dict(input={0: 'batch', 2: 'height', 3: 'width'}, dets=dynamic, labels=dict(dynamic)),
            ),
            codebase_config=dict(
                type='mmdet',
                task='ObjectDetection',
                model_type='end2end',
                post_processing=dict(
                    score_threshold=0.05,
                    confidence_threshold=0.005,
                    iou_threshold=0.5,
                    max_output_boxes_per_class=200,
                    pre_top_k=5000,
                    keep_top_k=100,
                    background_label_id=-1,
                ),
            ),
            backend_config=dict(type='onnxruntime'),
        )
    )


def compare(inferencer: DetInferencer, session: Any, image: str) -> tuple[int, int, float, float]:
    """Boxes of PyTorch and of ONNX Runtime, and how far boxes (pixels) and scores are apart; inf: other labels."""
    found = inferencer(image, return_datasamples=True, no_save_vis=True)['predictions'][0].pred_instances.numpy()
    data = inferencer.pipeline(image)
    batch = inferencer.model.data_preprocessor(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]))
    dets, labels = (output[0] for output in session.run(None, {'input': batch['inputs'].cpu().numpy()}))
    real = dets[:, 4] > 0  # one row is empty where there are fewer than keep_top_k
    dets, labels = dets[real], labels[real]
    if len(dets) != len(found) or (labels != found.labels).any():
        return len(found), len(dets), float('inf'), float('inf')
    boxes = dets[:, :4] / np.tile(data['data_samples'].scale_factor, 2)
    apart = [np.abs(a - b).max(initial=0) for a, b in ((boxes, found.bboxes), (dets[:, 4], found.scores))]
    return len(found), len(dets), *map(float, apart)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('student', help='file that publish_student or StudentExportHook wrote')
    parser.add_argument('out', help='file to write, ….onnx')
    parser.add_argument('--images', nargs='+', required=True, help='files; the first one is traced, all are compared')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    for path in args.images:
        if not Path(path).is_file():
            fail(f'--images: no file {path!r}')
    out = Path(args.out)
    if out.suffix != '.onnx' or out.exists():
        fail(f'OUT={args.out!r}; accepted: a new name that ends in .onnx')
    try:
        _, meta = read_checkpoint(args.student, 'STUDENT')
    except (OSError, ValueError) as error:
        fail(str(error))
    if 'cfg' not in meta or 'GraphDistiller' in meta['cfg']:
        fail(f'STUDENT={args.student!r}; accepted: a file of publish_student or StudentExportHook')
    torch2onnx = import_mmdeploy()
    MMLogger.get_current_instance().setLevel('ERROR')
    warnings.simplefilter('ignore')
    import onnxruntime

    model = Config.fromstring(meta['cfg'], '.py')
    model.setdefault('test_pipeline', model.test_dataloader.dataset.pipeline)  # which mmdeploy reads
    # mmdeploy's messages go to standard output
    with contextlib.redirect_stdout(sys.stderr):
        deploy = deploy_config(out.name)
        torch2onnx(args.images[0], str(out.parent), out.name, deploy, model, args.student, device='cpu')
        inferencer = DetInferencer(weights=args.student, device='cpu', show_progress=False)
    session = onnxruntime.InferenceSession(str(out), providers=['CPUExecutionProvider'])
    bad = 0
    for path in args.images:
        ours, theirs, pixels, score = compare(inferencer, session, path)
        bad += not (pixels <= PIXELS and score <= SCORE)
        apart = (
            f'at most {pixels:.1e} pixels and {score:.1e} of score apart' if pixels < float('inf') else 'not the same'
        )
        print(f'{path}: {ours} boxes in PyTorch, {theirs} in ONNX Runtime, {apart}')
    print(f'{out}: {bad} of {len(args.images)} images differ by more than {PIXELS} pixels or {SCORE} of score')
    return int(bool(bad))


if __name__ == '__main__':
    with ended_by_signals():
        sys.exit(main())
