//! The connections to the model server that one downstream connection has for itself.
//!
//! What goes over them may harm the connection that it goes over, and then harms no other caller's calls.

use std::sync::{Arc, OnceLock};

use tokio::runtime::Handle;

use super::connect::Connector;
use super::lane::{Lane, Line};
use super::unary::Unary;

/// Lanes of one downstream connection, each opened by the first call that needs it, on the runtime that this is called on.
pub(super) struct OwnLanes {
    connector: Arc<Connector>,
    streams: OnceLock<Arc<Lane>>,
    odd: OnceLock<Lane<Unary>>,
}

impl OwnLanes {
    pub(super) fn to(connector: Arc<Connector>) -> Self {
        Self { connector, streams: OnceLock::new(), odd: OnceLock::new() }
    }

    /// For calls that stream through: a caller that stops reading can use up their connection's windows.
    pub(super) fn streams(&self) -> &Arc<Lane> {
        self.streams.get_or_init(|| Arc::new(self.open()))
    }

    /// For unary calls that a model server may refuse before it looks at their question, by their headers or since they do not
    /// decode: Triton 2.51 ends such a call several times over, which HTTP/2 takes for an error of the connection.
    pub(super) fn odd(&self) -> &Lane<Unary> {
        self.odd.get_or_init(|| self.open())
    }

    fn open<L: Line>(&self) -> Lane<L> {
        Lane::open(&Handle::current(), Arc::clone(&self.connector))
    }
}
