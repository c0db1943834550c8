"""The maths of object detection in `keras.ops`: boxes, anchors, matching, losses and the decoding of predictions."""
