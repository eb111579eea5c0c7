"""The methods' recipes as their authors released them, each with the file that it was read in.

Points where a release says something that a recipe cannot are named below it.
"""

from dataclasses import replace

from jaxhash.recipes import Recipe

DLBHC = Recipe(
    learning_rate=1e-3,
    schedule="step",
    drops=(0.5,),
    weight_decay=5e-4,
    classifier_rate=10,
    bias_rate=2,
    batch_size=32,
    steps=50_000,
    augment="crop-flip",
    start="dlbhc",
)
"""CIFAR-10, from weights pretrained on ImageNet: all at one rate but the classifier, which has ten
times it, and the biases, which have twice that of their layer and no decay.

Source, on GitHub: kevinlin311tw/caffe-cvprw15, examples/cvprw15-cifar10/solver_CIFAR10_48.prototxt
and train_CIFAR10_48.prototxt there (layers fc8_kevin and fc8_pascal).
"""

SSDH = replace(DLBHC, start="ssdh")
"""DLBHC's but for the initialisation: bits start undecided, and the classifier's weights large.

Source, on GitHub: kevinlin311tw/Caffe-DeepBinaryCode, examples/SSDH/solver.prototxt and
train_val.prototxt there (layers latent and fc9).
"""

DSH = Recipe(
    learning_rate=5e-4,
    schedule="step",
    drops=(60 / 70, 65 / 70),
    weight_decay=8e-3,
    bias_rate=2,
    batch_size=200,
    steps=70_000,
    augment="flip",
    start="xavier",
)
"""CIFAR-10 from scratch, with the schedule of the IJCV 2019 version.

The release's rate is 1e-3 and its decay 0.004. Its layer (src/caffe/layers/hashing_loss_layer.cpp)
computes half the gradient of our loss: half the rate and twice the decay take the same steps.

Source, on GitHub: lhmRyan/deep-supervised-hashing-DSH, CIFAR-10/solver.prototxt and
train_test.prototxt there (layer ip1); include/caffe/filler.hpp for what its "xavier" is.
"""

MHCLN = Recipe(
    optimizer="adam",
    learning_rate=1e-4,
    momentum=0.5,
    beta2=0.9,
    batch_size=90,
    steps=10_000,
    start="he-average",
)
"""UC Merced and AID, on features of Inception-v3.

Source, on GitHub: MLEnthusiast/MHCLN, UCMD/trainer.py, and tflib/ops/conv2d.py for the start.
"""

HASHNET = Recipe(
    learning_rate=3e-4,
    schedule="step",
    drops=(0.2, 0.4, 0.6, 0.8),
    drop_factor=0.5,
    nesterov=True,
    weight_decay=5e-4,
    decay_all=True,
    latent_rate=10,
    batch_size=72,
    steps=10_000,
    augment="zoom-flip",
    start="normal",
)
"""Its batches are pairs between two times 36 images; here they are all pairs of the 72.

The rate is the one of the command in pytorch/README.md, for ResNet-50 on COCO; no other is given.

Source, on GitHub: thuml/HashNet, pytorch/src/train.py (optimiser, schedule and rates), network.py
(start) and pre_process.py (crops). Its caffe/ has rate 2e-4 and biases at twice their layer's.
"""

GREEDYHASH = Recipe(
    learning_rate=1e-3,
    schedule="step",
    drops=(0.6,),
    weight_decay=5e-4,
    decay_all=True,
    batch_size=32,
    epochs=50,
    start="uniform",
)
"""CIFAR-10 in its first setting (p-5k); for p-all cifar2.py has 40 epochs with the drop at 20.

Source, on GitHub: ssppp/GreedyHash, cifar1.py.
"""

CSQ = Recipe(
    optimizer="adam",
    learning_rate=1e-6,
    schedule="step",
    drops=tuple(part / 9 for part in range(1, 9)),
    drop_factor=0.7,
    latent_rate=100,
    batch_size=64,
    epochs=90,
    augment="zoom-flip",
    start="uniform",
)
"""AlexNet at 64 bits: the hash layer at 1e-4, the pretrained layers below at a hundredth of it.

The release has three layers in place of the latent layer, two of 4,096 units below the one that
makes the bits; here there is only that one.

Source, on GitHub: yuanli2333/Hadamard-Matrix-for-hashing, train.py and options.py; README.md for
AlexNet's rate.
"""

DPN = Recipe(
    learning_rate=64 * 1e-4,
    schedule="step",
    drops=(0.5,),
    weight_decay=5e-4 / 64,
    decay_all=True,
    batch_size=256,
    epochs=200,
    augment="zoom-flip",
    start="normal",
)
"""AlexNet at 64 bits, the release's default. Its loss is a sum over the bits and ours a mean: 64
times its rate of 1e-4, and its decay of 5e-4 over 64, take the same steps.

Its latent layer has no bias; here it starts at 0.

Source, on GitHub: kamwoh/DPN, main.py, scripts/train_hashing.py (the loss), configs.py (crops) and
models/alexnet.py (start).
"""

ORTHOHASH = Recipe(
    optimizer="adam",
    learning_rate=1e-5,
    schedule="step",
    drops=(0.8,),
    weight_decay=5e-4,
    decay_all=True,
    latent_rate=10,
    batch_size=256,
    epochs=100,
    augment="zoom-flip",
    start="normal",
)
"""The latent layer at 1e-4, the pretrained layers below at a tenth of it.

Crops are those for ImageNet; on CIFAR-10 the release flips and varies the light by 5 %. The
normalisation over its latent has a scale and a shift, which are learned; here there are none.

Source, on GitHub: kamwoh/orthohash, main.py, scripts/train_hashing.py (the rates), configs.py
(crops) and models/alexnet.py (start).
"""

TALR = Recipe(
    learning_rate=1e-3,
    weight_decay=5e-4,
    decay_all=True,
    latent_rate=10,
    batch_size=250,
    epochs=50,
    augment="flip",
    start="he",
)
"""CIFAR-10: the latent layer at 1e-2, the pretrained layers below at a tenth of it, constant.

Its network is VGG-F without dropout, which is near to AlexNet; a whole batch is mirrored at once.

Source, on GitHub: kunhe/TALR, run_cifar_s1.m, +demo/AP.m (the schedule), +models/vggf.m and
+models/init_weights.m (start).
"""

REVISED = frozenset(
    {
        *("dlbhc", "ssdh", "dhih", "dhih-r2", "dhih-r3", "dhih-r4"),
        *("hashnet", "greedyhash", "csq", "dpn", "orthohash", "talr"),
    }
)
"""Methods whose recipes have changed since version 0.1.0, whose runs do not record theirs."""
