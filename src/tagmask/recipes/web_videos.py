"""Web videos - objects move as a whole: what clips of a class show of its extent, a decoder learns, and sees in photos.

Hong, Yeo, Kwak, Lee, Han. CVPR 2017. https://arxiv.org/abs/1701.00352
Extra supervision   none
Run                 tagmask run web_videos photos/ --clips clips/
Expect              the row `web_videos` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tagmask.activate import highest_cam, multi_scale_cam
from tagmask.begin import begin
from tagmask.decode import decoded_labels, fit_decoder
from tagmask.errors import OptionError
from tagmask.fit import Schedule
from tagmask.label import threshold_labels
from tagmask.outcome import Outcome
from tagmask.refine.clipcut import CutOptions
from tagmask.refine.crf import PSA_CRF
from tagmask.retrain import retrain
from tagmask.sights import Sights, cam_of_frame, mask_of_frame
from tagmask.tagged_clips import checked_clips, tagged_clips
from tagmask.types import Dataset
from tagmask.watching import FrameOptions, cut_clip, told, watched
from tagmask.work import Work

MERGES = {"max": highest_cam, "sum": multi_scale_cam}


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    clips: str = ""  # a folder CLASS/*.mp4 or CLASS/CLIP/ of frames, or made: from the photos; ours (paper: the web)
    made_frames: int = 50  # frames of a made clip, in which a camera moves over a photo; ours
    tag_epochs: float = 5.0  # epochs of the classifier; author code (irn; not published)
    tag_rate: float = 0.01  # learning rate of the classifier; ours (irn: 0.1 without momentum, which is as much)
    tag_crop: int = 321  # side of the classifier's training crops in pixels; ours (not published)
    balance: bool = False  # weigh the yes and no of each tag by how rare they are; ours
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)  # scales of the photo at which activations are summed; author code
    flip: bool = False  # activate the mirror image too, of frames also; ours
    threshold: float = 0.0  # background threshold in 0..1, where 0 means: choose it without masks; ours
    frame_stride: int = 5  # every so manieth frame of a clip is looked at; ours
    frame_size: int = 320  # longest side in pixels at which frames are worked on; ours
    frame_score: float = 0.8  # the class must be more probable than this in a frame; recalled
    frame_others: float = 0.8  # no other class may be more probable than this in it; ours
    frame_run: int = 5  # frames in a row, of those looked at, that must pass; ours (recalled: short runs are dropped)
    frame_chunk: int = 30  # frames that are cut out together at most; ours
    shot_change: float = 0.35  # share of the pixels that change colour where a new shot begins, 1 = never; ours
    attention_scales: tuple[float, ...] = (1.0, 1.5)  # scales at which cut and decoder see; ours (paper: several)
    merge: str = "max"  # what counts of these: the max or the sum (for scales below 1); paper (max), ours (sum)
    calibrate: float = 0.4  # move the threshold here by a power of the attention, for the cut; 0 = do not; ours
    frame_regions: int = 400  # superpixels of a frame; ours (not published)
    attention_weight: float = 1.0  # weight of the attention in the cut; ours (not published)
    colour_weight: float = 0.5  # weight of the colours of object and ground, 0 = without; ours (not published)
    motion_weight: float = 1.0  # weight of what the motion encloses, 0 = without; ours (recalled: part of the paper)
    spatial_weight: float = 1.0  # weight of neighbours in a frame, to a superpixel's own terms; ours (not published)
    temporal_weight: float = 1.0  # weight of what the flow joins over time, 0 = frame by frame; ours (not published)
    cut_rounds: int = 3  # cuts in turn, each with the colours of the one before; ours
    flow: str = "medium"  # optical flow: ultrafast, fast or medium (DIS); ours
    mask_least: float = 0.01  # masks that cover a smaller share of the frame teach nothing; ours
    mask_most: float = 0.9  # masks that cover a larger share of the frame teach nothing; ours
    mask_inside: float = 0.6  # masks that hold less of the attention (where over one half) teach nothing; ours
    decoder_width: int = 256  # channels of the decoder's first stage, each next has half; ours (paper: mirrored VGG16)
    decoder_stages: int = 2  # steps of the decoder up to finer maps of the trunk; ours (paper: five)
    decoder_epochs: float = 10.0  # epochs of the decoder over the frames; ours (not published)
    decoder_rate: float = 0.01  # its learning rate; ours (not published)
    decoder_batch: int = 16  # frames in its training step; ours (not published)
    decoder_crop: int = 320  # side of its training crops in pixels; ours (not published)
    decoder_zoom: tuple[float, float] = (0.75, 1.5)  # range of the random scale of its training frames; ours
    decoder_crf: bool = False  # sharpen what it says of photos with a CRF; recalled (optional in the paper)
    output_stride: int = 16  # pixels a cell of the networks' grid; ours
    segmenter: str = "deeplab-v3"  # deeplab-v1, deeplab-v2 or deeplab-v3; ours (paper: the decoder itself predicts)
    rounds: int = 1  # segmenters trained in turn, each on the masks of the one before; ours
    epochs: float = 20.0  # epochs of each segmenter; ours
    rate: float = 0.002  # learning rate of the segmenter; ours
    head_rate: float = 10.0  # its new layers learn so many times as fast; paper (DeepLab v1)
    crop: int = 513  # side of the segmenter's training crops in pixels; paper (DeepLab v3)
    zoom: tuple[float, float] = (0.5, 2.0)  # range of the random scale of training photos; paper (DeepLab v3)
    width: int = 256  # channels of the segmenter's head; paper (DeepLab v3)
    batch: int = 16  # photos in a training step of classifier and segmenter; paper (DeepLab v3)
    test_scales: tuple[float, ...] = (1.0,)  # scales at which the segmenter looks at a photo; ours
    test_flip: bool = False  # let the segmenter look at the mirror image too; ours
    test_crf: bool = False  # sharpen the segmenter's predictions with a CRF; ours

    def __post_init__(self) -> None:
        checked_clips(self.clips)
        _ = self.frames, self.cut  # they refuse what is impossible
        if self.merge not in MERGES:
            raise OptionError(f"merge is {self.merge!r}; expected {' or '.join(MERGES)}.")
        for name in ("threshold", "mask_least", "mask_most", "mask_inside"):
            if getattr(self, name) > 1:
                raise OptionError(f"{name} is {getattr(self, name)}; expected a number in 0..1.")
        if self.calibrate >= 1 or self.mask_least > self.mask_most:
            raise OptionError(
                f"calibrate is {self.calibrate}, mask_least {self.mask_least} and mask_most {self.mask_most}; expected "
                "less than 1, and a least area below the most."
            )
        for name in ("made_frames", "decoder_width", "decoder_epochs", "decoder_rate", "decoder_batch", "decoder_crop"):
            if not getattr(self, name):
                raise OptionError(f"{name} is 0; expected a positive number.")

    @property
    def frames(self) -> FrameOptions:
        """Which frames are worked on."""
        return FrameOptions(
            self.frame_stride, self.frame_size, self.frame_score, self.frame_others, self.frame_run, self.frame_chunk,
            self.shot_change,
        )  # fmt: skip

    @property
    def cut(self) -> CutOptions:
        """What the graph cut weighs."""
        return CutOptions(
            self.attention_weight, self.colour_weight, self.motion_weight, self.spatial_weight, self.temporal_weight,
            rounds=self.cut_rounds, regions=self.frame_regions, flow=self.flow,
        )  # fmt: skip


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Classify photos; find, in clips, frames of each class and cut objects out of them; learn extents; decode photos."""
    attend, looks = MERGES[options.merge], {"scales": options.attention_scales, "flip": options.flip}
    sharp: dict[str, Any] = {"crf": PSA_CRF} if options.decoder_crf else {}
    clips = tagged_clips(work, data, options.clips, count=options.made_frames)

    begun = begin(work, data, options)
    threshold = begun.chosen["threshold"]
    seen = work.each("clip-attention", watched, begun.classifier, clips, frames=options.frames, attend=attend, **looks)
    warnings = told(clips, seen, work.narrator)
    cut = work.each(
        "clip-cuts", cut_clip, seen, threshold=threshold, calibrate=options.calibrate, cut=options.cut,
        area=(options.mask_least, options.mask_most), inside=options.mask_inside,
    )  # fmt: skip
    work.each("clip-masks", mask_of_frame, Sights(clips, cut))
    work.each("clip-cam", cam_of_frame, Sights(clips, seen), threshold=threshold)
    decoder = work.once(
        "decoder", fit_decoder, begun.classifier, seen, cut,
        width=options.decoder_width, stages=options.decoder_stages, crop=options.decoder_crop, scales=options.decoder_zoom,
        schedule=Schedule(options.decoder_epochs, options.decoder_batch, options.decoder_rate, head_rate=1.0),
        seed=work.seed,
    )  # fmt: skip
    attention = work.each("attention", attend, begun.classifier, data.train, **looks)
    masks = work.each("decoded", decoded_labels, decoder, attention, data.train, **sharp)
    end = retrain(work, data, masks, options)

    believed = {"predicted": True, "flip": options.flip}
    plain = work.each("val-activation", multi_scale_cam, begun.classifier, data.val, scales=options.scales, **believed)
    seen_in_val = work.each("val-attention", attend, begun.classifier, data.val, **{**looks, **believed})
    val_steps = {
        "thresholded activation": work.each("val-thresholded", threshold_labels, plain, threshold),
        "decoder": work.each("val-decoded", decoded_labels, decoder, seen_in_val, data.val, **sharp),
    }
    return Outcome(
        masks=end.masks, segmenter=end.segmenter, activation=begun.activation, seeds=begun.seeds, threshold=begun.chosen,
        steps={"thresholded activation": begun.seeds, "decoder": masks, **end.steps}, val_steps=val_steps,
        predict=end.predict, warnings=warnings,
    )  # fmt: skip
