"""MobileFaceNet as other people export it: an .onnx file in one layout or the other, with any batch or a fixed one."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from client.faces.models import MOBILEFACENET
from federation.recognition.mobilefacenet import MobileFaceNet


def exported(*, layout="nchw", batch="n"):
    """The bytes of the model."""
    network = MobileFaceNet.of_file(MOBILEFACENET.read_bytes())
    nodes, constants = [], []

    def constant(array):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), f"c{len(constants)}"))
        return constants[-1].name

    def add(kind, inputs, **attributes):
        nodes.append(helper.make_node(kind, inputs, [f"x{len(nodes)}"], **attributes))
        return f"x{len(nodes) - 1}"

    def layer(x, one, stride=1, *, whole=False):
        alone = one.weights.ndim == 3
        kernel = one.weights.transpose(2, 0, 1)[:, None] if alone else one.weights.transpose(3, 2, 0, 1)
        x = add(
            "Conv",
            [x, constant(kernel), constant(one.bias)],
            strides=[stride, stride],
            group=len(kernel) if alone else 1,
            auto_pad="VALID" if whole else "SAME_UPPER",
        )
        return x if one.slope is None else add("PRelu", [x, constant(one.slope[:, None, None])])

    x = "image" if layout == "nchw" else add("Transpose", ["image"], perm=[0, 3, 1, 2])
    x = layer(layer(layer(x, network.first, 2), network.look), network.entry)
    for block in network.blocks:
        y = layer(layer(layer(x, block.widen), block.look, block.stride), block.narrow)
        same = block.stride == 1 and block.widen.weights.shape[2] == block.narrow.weights.shape[3]
        x = add("Add", [x, y]) if same else y
    x = layer(layer(layer(layer(x, network.last), network.weigh, whole=True), network.mix), network.out)
    x = add("Flatten", [x])
    shape = [batch, 3, 112, 112] if layout == "nchw" else [batch, 112, 112, 3]
    graph = helper.make_graph(
        nodes,
        "mobilefacenet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [batch, 192])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
