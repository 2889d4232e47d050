"""Average precision by loops over lists, by the definitions of COCO and of VOC, for test_coco_ap.py and test_voc_ap.py."""

import numpy as np


def overlap(one, other):
    """Intersection over union of two boxes."""
    shared = max(min(one[2], other[2]) - max(one[0], other[0]), 0) * max(
        min(one[3], other[3]) - max(one[1], other[1]), 0
    )
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared) if sum(areas) > shared else 0.0


def slow_coco_ap(objects, found, *, crowds, masks):
    """(10,) AP at COCO's thresholds, the mean over classes, with 101 recalls.

    Args:
        objects: image -> (boxes, labels); crowds: (image, place) pairs among them.
        found: image -> Found; masks: draws a box's mask, or None to compare boxes.
    """
    thresholds = np.linspace(0.5, 0.95, 10)
    labels = sorted({int(label) for _, own in objects.values() for label in own})
    return np.array(
        [np.mean([_coco_class(objects, found, crowds, masks, label, t) for label in labels]) for t in thresholds]
    )


def _coco_class(objects, found, crowds, masks, label, threshold):
    results, num_objects = [], 0
    for image, (boxes, labels) in objects.items():
        own = [(place, box) for place, (box, one) in enumerate(zip(boxes, labels)) if one == label]
        # Crowds come last, as pycocotools sorts them.
        own.sort(key=lambda pair: (image, pair[0]) in crowds)
        num_objects += sum((image, place) not in crowds for place, _ in own)
        taken = set()
        one = found[image]
        order = sorted((p for p in range(len(one.labels)) if one.labels[p] == label), key=lambda p: -one.scores[p])
        for place in order:
            best, chosen = min(threshold, 1 - 1e-10), None
            for other, box in own:
                is_crowd = (image, other) in crowds
                if (other in taken and not is_crowd) or (
                    chosen is not None and (image, chosen) not in crowds and is_crowd
                ):
                    continue
                value = _compare(one.boxes[place], box, is_crowd, masks)
                if value >= best:
                    best, chosen = value, other
            if chosen is None:
                results.append((one.scores[place], "miss"))
            elif (image, chosen) in crowds:
                results.append((one.scores[place], "ignored"))
            else:
                taken.add(chosen)
                results.append((one.scores[place], "hit"))
    results.sort(key=lambda pair: -pair[0])
    hits = misses = 0
    points = []
    for _, kind in results:
        hits, misses = hits + (kind == "hit"), misses + (kind == "miss")
        points.append((hits / num_objects, hits / max(hits + misses, 1)))
    return np.mean([max((p for r, p in points if r >= recall), default=0) for recall in np.linspace(0, 1, 101)])


def _compare(box, truth, is_crowd, masks):
    if masks is None:
        shared = max(min(box[2], truth[2]) - max(box[0], truth[0]), 0) * max(
            min(box[3], truth[3]) - max(box[1], truth[1]), 0
        )
        area = (box[2] - box[0]) * (box[3] - box[1])
        return shared / area if is_crowd else overlap(box, truth)
    one, other = masks(*box) > 0, masks(*truth) > 0
    return (one & other).sum() / (one.sum() if is_crowd else (one | other).sum())


def slow_voc_ap(objects, found, label, threshold, *, eleven_points):
    """AP of a class by the loop of VOC's own code; `objects`: image -> ImageObjects."""
    lines = [
        (s, image, box)
        for image, one in found.items()
        for box, s, k in zip(one.boxes, one.scores, one.labels)
        if k == label
    ]
    lines.sort(key=lambda line: -line[0])
    num_objects = sum(int(((o.labels == label) & ~o.difficult).sum()) for o in objects.values())
    taken, hits, misses, points = set(), 0, 0, []
    for _, image, box in lines:
        best, chosen = -1.0, None
        for place, truth in enumerate(objects[image].boxes):
            if objects[image].labels[place] == label and overlap(box, truth) > best:
                best, chosen = overlap(box, truth), place
        if best <= threshold:
            misses += 1
        elif not objects[image].difficult[chosen]:
            if (image, chosen) in taken:
                misses += 1
            else:
                hits += 1
                taken.add((image, chosen))
        points.append((hits / num_objects, hits / max(hits + misses, 1)))
    if eleven_points:
        return np.mean([max((p for r, p in points if r >= recall), default=0) for recall in np.arange(0.0, 1.1, 0.1)])
    area, before = 0.0, 0.0
    for recall in sorted({r for r, _ in points}):
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return area
