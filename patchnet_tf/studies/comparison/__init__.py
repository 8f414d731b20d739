"""PatchNet against what the paper compares it with, on the same images (its Tables 1, 2, 5, 7 and 8).

A PatchNet for each patch size and, unless `comparison.baselines` is null, its networks (VGG-19 with CAM,
VGG-11 with Grad-CAM, the pretrained network in full with both) are trained by the same pipeline and
stopping rule, and measured: the classification, the maps against masks where there are any, and the
probability while pixels are deleted and inserted in the order of the maps. The folder of a comparison has

    config.yaml                 the configuration, defaults included
    patchnet17/, cam/, vgg11/   a run for each network, see `patchnet_tf.training.run`
    maps/images.npy             (N, H, W, C), uint8: the images that maps were drawn of: those with masks, or
                                else some validation images of each class
    maps/masks.npy              (N, H, W), bool; absent where there are no masks
    maps/classes.npy            (N,), of several classes or labels the one whose map is drawn of each image
    maps/METHOD.npy             (N, H, W), float32 in [0, 1]; METHOD is patchnet17, ..., cam, grad_cam,
                                pretrained_cam or pretrained_grad_cam
    maps/METHOD_curves.npz      what became of the probability, see `measuring`
    comparison.json             all figures
    comparison.csv              a row for each method with the main ones
    patch_sizes.png             loss, accuracy, AUROC of maps and time by patch size, where there are several
    heatmaps.png                the same images as each of these PatchNets sees them

    study        from the configuration to the figures
    candidates   which networks are compared
    images       of which images maps are drawn
    measuring    the figures of one network and of its maps
    outputs      tables and charts of all of them
"""

from .study import compare

__all__ = ["compare"]
