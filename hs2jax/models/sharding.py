"""Placement of arrays: a mesh of three axes, and rules from parameter paths to axes.

data: copies of the model, each with its own rows. fsdp: rows and parameters are both split.
tensor: heads, hidden units and vocabulary are split. The layer axis is never split.
"""

import contextlib
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the mesh axes over which rows are split

# The first pattern found in a path decides. Norms, biases, LoRA and the reward
# head are on every device.
RULES = (
    (r"^(.*/)?lora/", P()),
    (r"/(q|k|v)$", P(None, "fsdp", "tensor", None)),
    (r"/o$", P(None, "tensor", None, "fsdp")),
    (r"/(gate|up)$", P(None, "fsdp", "tensor")),
    (r"/down$", P(None, "tensor", "fsdp")),
    (r"(^|/)(embed|lm_head)$", P("tensor", "fsdp")),
    (r"(^|/)(\w+_)?(norm|kernel|bias)$", P()),
)


def make_mesh(data: int = 1, fsdp: int = -1, tensor: int = 1, *, of=None):
    """A mesh over all devices, or over those given; one axis may be -1 and takes what is left."""
    sizes, of = [data, fsdp, tensor], jax.devices() if of is None else of
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = len(of) // max(1, -math.prod(sizes))
    if math.prod(sizes) != len(of) or min(sizes) < 1:
        raise ValueError(
            f"config.mesh: data={data}, fsdp={fsdp}, tensor={tensor} does not multiply to the "
            f"{len(of)} devices that are here; let one axis be -1 to take what is left"
        )
    # Else no axis of a slice of 8x8x8 could be divided into 4 and 2.
    devices = mesh_utils.create_device_mesh(sizes, of, allow_split_physical_axes=True)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)


def mesh_of(sizes):
    """`make_mesh` of a config's `mesh`; None on one device, where nothing has to be placed."""
    mesh = make_mesh(**sizes)
    return mesh if jax.device_count() > 1 else None


def path_name(path) -> str:
    """A pytree path as the rules see it: "decoder/layers/attention/q"."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)


def spec_for(name: str, shape, mesh) -> P:
    """The rule for one parameter. An axis that does not divide its dimension is not split, nor is
    a single number, such as the optimizer's count of steps."""
    if not shape:
        return P()
    for pattern, spec in RULES:
        if re.search(pattern, name):
            axes = zip((*spec, *[None] * (len(shape) - len(spec))), shape, strict=True)
            return P(*(a if a and n % mesh.shape[a] == 0 else None for a, n in axes))
    raise ValueError(f"no sharding rule covers the parameter {name!r}; add one to RULES")


def shardings(tree, mesh):
    """A tree of NamedShardings for a tree of parameters or of their ShapeDtypeStructs."""
    return jax.tree.map_with_path(
        lambda path, x: NamedSharding(mesh, spec_for(path_name(path), x.shape, mesh)), tree
    )


def placed_shapes(shapes, places):
    """ShapeDtypeStructs that say where they belong."""
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
    )


def one_device() -> bool:
    """Tell whether what is traced here is for one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or mesh.size == 1


def spec_here(name: str, shape) -> P | None:
    """The rule for a parameter, such as "embed", by the mesh of what is traced; None outside."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else spec_for(name, shape, mesh)


def layer_spec(name: str, shape) -> P | None:
    """The rule for one layer's part of a stack of parameters, such as "q"; None outside a mesh."""
    spec = spec_here(f"/{name}", (1, *shape))
    return spec and P(*spec[1:])


def constrain(x, spec: P | None):
    """Keep x split so; does nothing with None."""
    return x if spec is None else jax.lax.with_sharding_constraint(x, spec)


def gather(x, spec: P | None):
    """`constrain` parameters as a product takes them: whole where `fsdp` has split them."""
    return constrain(x, spec and P(*(None if axis == "fsdp" else axis for axis in spec)))


def constrain_rows(x):
    """Keep axis 0 split over the mesh's row axes; does nothing outside of a mesh."""
    outside = jax.sharding.get_abstract_mesh().empty
    return constrain(x, None if outside else P(ROWS, *(None,) * (x.ndim - 1)))


def on_each(run, q, k, v, *others):
    """Run a function of q [B, T, N, H], k and v [B, T, K, H] and of others [B, ...], scalars or
    None on each device's own rows and heads; a dimension that does not divide stays whole. Returns
    what is as q is."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return run(q, k, v, *others)
    rows = ROWS if q.shape[0] % row_devices(mesh) == 0 else None
    heads = "tensor" if k.shape[2] % mesh.shape["tensor"] == 0 else None
    by_head = P(rows, None, heads, None)
    by_row = [None if x is None else P(rows) if jnp.ndim(x) else P() for x in others]
    specs = (by_head, by_head, by_head, *by_row)
    divided = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=by_head, check_vma=False)
    return divided(q, k, v, *others)


def within(mesh):
    """The context in which programs are traced that run on the mesh; None where there is none."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def place_rows(batch, mesh, axis: int = 0):
    """Put a batch (a dict of numpy arrays, the same on every process) onto the mesh, split over
    `axis`. Without a mesh it goes to the default device."""
    if mesh is None:
        return jax.tree.map(jnp.asarray, batch)
    place = NamedSharding(mesh, P(*(None,) * axis, ROWS))
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, place, x.__getitem__), batch
    )


def rows_here(rows: int, mesh) -> np.ndarray:
    """Tell which of so many rows `place_rows` gives to devices of this process, bool [rows]."""
    here = np.zeros(rows, bool)
    for of_device in NamedSharding(mesh, P(ROWS)).addressable_devices_indices_map((rows,)).values():
        here[of_device] = True
    return here


def row_shapes(tree, mesh, axis: int = 0):
    """Shapes of a tree's arrays that say where `place_rows` puts them."""
    place = mesh and NamedSharding(mesh, P(*(None,) * axis, ROWS))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def row_devices(mesh) -> int:
    """Among how many parts of the mesh rows are divided."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def fit_rows(rows: int, mesh) -> int:
    """The next number of rows that divides among the mesh's devices."""
    return math.ceil(rows / row_devices(mesh)) * row_devices(mesh)


def to_host(array) -> np.ndarray:
    """An array as numpy on every process, wherever its parts are."""
    if getattr(array, "is_fully_addressable", True):  # So is numpy's.
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
