//! Which fields of TensorFlow Serving's requests are messages, for [`wire::is_read_by_all`](crate::protocol::wire::is_read_by_all).

use crate::protocol::wire::Nested;

static LEAF: Nested = Nested(&[]);
static MODEL_SPEC: Nested = Nested(&[(2, &LEAF)]);
static SHAPE: Nested = Nested(&[(2, &LEAF)]);
static TENSOR: Nested = Nested(&[(2, &SHAPE)]);
static NAMED_TENSOR: Nested = Nested(&[(2, &TENSOR)]);
static FEATURE: Nested = Nested(&[(1, &LEAF), (2, &LEAF), (3, &LEAF)]);
static FEATURES: Nested = Nested(&[(1, &Nested(&[(2, &FEATURE)]))]);
static EXAMPLE: Nested = Nested(&[(1, &FEATURES)]);
static INPUT: Nested =
    Nested(&[(1, &Nested(&[(1, &EXAMPLE)])), (2, &Nested(&[(1, &EXAMPLE), (2, &EXAMPLE)]))]);

pub(super) static PREDICT: Nested = Nested(&[(1, &MODEL_SPEC), (2, &NAMED_TENSOR)]);

/// Of Classify and of Regress.
pub(super) static EXAMPLES: Nested = Nested(&[(1, &MODEL_SPEC), (2, &INPUT)]);

pub(super) static MULTI_INFERENCE: Nested = Nested(&[(1, &Nested(&[(1, &MODEL_SPEC)])), (2, &INPUT)]);
