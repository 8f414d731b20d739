"""NAME_overlay.dcm, a secondary capture; NAME_map.dcm, a parametric map; NAME_regions.dcm, a segmentation.

They belong to the study of the source, which must be DICOM too. The map and the segmentation lie on the
source in its frame of reference; where it has none, the secondary capture alone is written. Several classes
are frames of one map, and segments of one segmentation.
"""

import importlib.metadata
import warnings
from pathlib import Path
from typing import Any

from ...errors import InputError, extra
from ...files import replacing
from .base import Map, Wanted, Writer

MAKER = "PatchNet-TF"
# What a file must have for a map to lie on it in a viewer.
GEOMETRY = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
SERIES = {"overlay": 1801, "map": 1802, "regions": 1803}  # numbers, of which a viewer makes an order
EXPLICIT = "1.2.840.10008.1.2.1"  # the transfer syntax that everyone reads: explicit VR, little endian
OWN_CODES = "99PATCHNETTF"  # the scheme of codes of a model's classes


def check(wanted: Wanted) -> None:
    """Refuse what is no DICOM; warn where it has no geometry."""
    with extra("dicom"):
        import highdicom  # noqa: F401
        from pydicom import dcmread
        from pydicom.errors import InvalidDicomError
    try:
        source = dcmread(wanted.source, stop_before_pixels=True)
    except (InvalidDicomError, OSError):
        raise InputError(
            f"{wanted.source}: dicom is written for DICOM files, to whose patient and study it belongs, and "
            "this is none; take png or ome-tiff"
        ) from None
    if missing := [name for name in ("StudyInstanceUID", "SOPInstanceUID") if not source.get(name)]:
        raise InputError(f"{wanted.source}: dicom needs {' and '.join(missing)}; take png or ome-tiff")
    if reason := why_not_placed(source, scaled=wanted.scaled, resized=wanted.resized):
        warnings.warn(
            f"{wanted.source}: {reason}: the overlay alone is written as DICOM, a secondary capture; "
            "of the values take ome-tiff or npy",
            stacklevel=2,
        )


def why_not_placed(source: Any, *, scaled: bool, resized: bool) -> str | None:
    """Return why a map cannot lie on its source in a viewer, or None."""
    if scaled:
        return "a baseline's map is scaled for each image, so that neither values nor a threshold compare"
    if resized:
        return "the map has another size than the file"
    if int(source.get("NumberOfFrames") or 1) > 1:
        return "of several frames"
    if missing := [name for name in GEOMETRY if not source.get(name)]:
        return f"without {', '.join(missing)}"
    return None


def write(result: Map, folder: Path) -> None:
    """Write the secondary capture and, where they can lie on the source, values and regions."""
    from pydicom import dcmread

    with warnings.catch_warnings():  # what is odd about a source that could be read
        warnings.simplefilter("ignore")
        source = dcmread(result.source)
        made = {"overlay": capture(result, source)}
        resized = result.size != result.heatmap.shape[:2]
        if not why_not_placed(source, scaled=result.scaled, resized=resized):
            made |= {"map": values(result, source)}
            if result.found().any():  # a segmentation of nothing is not allowed
                made |= {"regions": regions(result, source)}
        for name, data in made.items():
            with replacing(folder / f"{result.stem}_{name}.dcm") as part:
                data.save_as(part, enforce_file_format=True)


def identity(name: str) -> dict[str, Any]:
    """Return what says which new file of which new series it is, and who made it."""
    from highdicom import UID

    return {
        "series_instance_uid": UID(),
        "series_number": SERIES[name],
        "sop_instance_uid": UID(),
        "instance_number": 1,
        "manufacturer": MAKER,
        "series_description": f"{MAKER} {name}",
    }


def device() -> dict[str, Any]:
    """Return what says which program made it."""
    version = importlib.metadata.version("patchnet-tf")
    return {"manufacturer_model_name": MAKER, "software_versions": version, "device_serial_number": "0"}


def capture(result: Map, source: Any) -> Any:
    """Return the overlay with its legend."""
    from highdicom.sc import SCImage

    capture = SCImage.from_ref_dataset(
        source,
        pixel_array=result.overlay,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),  # which has to be given, and is not known yet
        transfer_syntax_uid=EXPLICIT,
        **identity("overlay"),
    )
    capture.PatientOrientation = source.get("PatientOrientation")  # empty where the source does not say
    capture.Laterality = source.get("Laterality")
    return capture


def values(result: Map, source: Any) -> Any:
    """Return the values as float32, in the frame of reference of the source."""
    from highdicom.pm import ParametricMap, RealWorldValueMapping
    from pydicom.sr.codedict import codes

    mappings = [
        [
            RealWorldValueMapping(
                lut_label=f"{k + 1}",
                lut_explanation=f"P({name})"[:64],
                unit=codes.UCUM.NoUnits,
                value_range=(0.0, 1.0),
                slope=1.0,
                intercept=0.0,
            )
        ]
        for k, name in enumerate(result.names)
    ]
    values = ParametricMap(
        [source],
        pixel_array=result.planes[None],
        contains_recognizable_visual_features=False,
        real_world_value_mappings=mappings,
        window_center=0.5,
        window_width=1.0,
        content_label="HEATMAP",
        content_description="Probability of each patch's class at its centre",
        **identity("map"),
        **device(),
    )
    values.Laterality = source.get("Laterality")
    return values


def regions(result: Map, source: Any) -> Any:
    """Return where each class is found, a segment for each, in the frame of reference of the source."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    algorithm = AlgorithmIdentificationSequence(
        name=MAKER,
        version=importlib.metadata.version("patchnet-tf"),
        family=codes.DCM.ArtificialIntelligence,
    )
    segments = [
        SegmentDescription(
            segment_number=k,
            segment_label=name[:64],
            segmented_property_category=Code("309825002", "SCT", "Spatial and Relational Concept"),
            segmented_property_type=Code(f"CLASS{k}", OWN_CODES, name[:64]),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            display_color=CIELabColor.from_rgb(*map(int, colour)),
        )
        for k, (name, colour) in enumerate(zip(result.names, result.colours(), strict=True), 1)
    ]
    return Segmentation(
        [source],
        pixel_array=result.found()[None],
        segmentation_type="BINARY",
        segment_descriptions=segments,
        content_label="REGIONS",
        **identity("regions"),
        **device(),
    )


DICOM = Writer("dicom", check, write)
