"""Which form of a launch is taken, and what its tensor maps describe: `runtime/src/device/maps.rs` again. Standard library only.

Comes in: sizes and strides of tensors, launches of plans, addresses. Goes out: descriptions of maps, forms and, where the form with maps
is not taken, the reason. What holds: that form is taken only if every map obeys the driver's rules; the general one takes any strides.
Sizes and strides are looked at when a plan is made, addresses when it is bound. Not here: encoding.
"""

FORMS = ("general", "mapped")
HALVES = ("f16", "bf16")
ALIGN = 16
"""Bytes that addresses and strides are multiples of."""
MOST_STRIDE = 1 << 40
MOST_SIZE = 1 << 32
MOST_BOX = 256


class Unmapped(Exception):
    """There is no map of these sizes and strides."""


def described(dtype, sizes, strides, row, col, box_rows, box_cols):
    """Sizes, bytes from element to element (of every dim but the first) and the box, the column dim first. Strides that come in count
    elements; all are in the order of logical dims. Errors: `Unmapped`."""
    rank = len(sizes)
    if dtype not in HALVES or row >= rank or col >= rank or row == col or not 2 <= rank <= 5:
        raise Unmapped(f"{dtype} of {rank} dims, rows along {row}, columns along {col}")
    dims, steps, box = [], [], []
    for dim in [col, *(d for d in reversed(range(rank)) if d != col)]:
        size, stride = sizes[dim], strides[dim]
        if not 0 < size <= MOST_SIZE:
            raise Unmapped(f"dim {dim} has the size {size}")
        dims.append(size)
        if dim == col:
            if stride != 1 and size > 1:
                raise Unmapped(f"columns lie {stride} elements apart")
            box.append(box_cols)
            continue
        # A dim of one element is never left: any stride will do.
        step = ALIGN if size == 1 else 2 * stride
        if step <= 0 or step % ALIGN or step >= MOST_STRIDE:
            raise Unmapped(f"dim {dim} has a stride of {step} bytes")
        steps.append(step)
        box.append(box_rows if dim == row else 1)
    if not all(1 <= b <= MOST_BOX for b in box):
        raise Unmapped(f"a box of {box}")
    return dict(dims=dims, strides=steps, box=box)


def two_forms(launch):
    """A launch of a plan that can run with maps at the plan's sizes."""
    return bool(launch["tasks"]) and launch.get("form") == "mapped"


def choices(plan):
    """The forms in which a plan can run, if addresses allow it."""
    return list(FORMS) if any(two_forms(one) for one in plan["launches"]) else ["general"]


def taken(launch, addresses, form=None):
    """The form (`general`, `mapped`) of a launch at these addresses of the plan's tensors, and why it is not the one with maps, if the
    launch has one. `form` asks for one; what cannot run with maps runs without."""
    mapped = launch.get("mapped")
    if mapped is None:
        return "general", None
    if launch["form"] != "mapped":
        return "general", launch["form_reason"]
    if form == "general":
        return "general", "asked for"
    for one in mapped["maps"]:
        if addresses[one["tensor"]] % ALIGN:
            return "general", f"the address of `{one['name']}` is no multiple of {ALIGN}"
    return "mapped", None
