//! Log records for a collector: one for each message of which a row was short-circuited or refused. Sampling never loses one.

use std::fmt;
use std::time::SystemTime;

use opentelemetry::logs::{AnyValue, LogRecord, Logger, LoggerProvider, Severity};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogProcessor, SdkLogRecord, SdkLogger, SdkLoggerProvider};

use super::export::Queue;
use super::trace::Trace;

/// The name of the event.
pub(super) const SHORT_CIRCUIT: &str = "refrain.short_circuit";

/// Makes records and passes them on.
pub(super) struct Logs {
    logger: SdkLogger,
    /// The logger's records end here as long as this lives.
    _provider: SdkLoggerProvider,
}

impl fmt::Debug for Logs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Logs")
    }
}

/// Where the SDK leaves its records.
#[derive(Debug)]
struct Into(Queue<SdkLogRecord>);

impl LogProcessor for Into {
    fn emit(&self, record: &mut SdkLogRecord, _: &InstrumentationScope) {
        self.0.put(record.clone());
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }
}

impl Logs {
    /// Records of `scope` into `queue`.
    pub(super) fn new(queue: Queue<SdkLogRecord>, scope: InstrumentationScope) -> Self {
        let provider = SdkLoggerProvider::builder().with_log_processor(Into(queue)).build();
        Self { logger: provider.logger_with_scope(scope), _provider: provider }
    }

    /// Passes on that a message was short-circuited or refused.
    pub(super) fn short_circuit(&self, trace: Option<&Trace>, attributes: &[KeyValue]) {
        let mut record = self.logger.create_log_record();
        record.set_event_name(SHORT_CIRCUIT);
        record.set_severity_number(Severity::Info);
        record.set_severity_text("INFO");
        record.set_timestamp(SystemTime::now());
        record.set_observed_timestamp(SystemTime::now());
        record.set_body(AnyValue::from("rows short-circuited"));
        if let Some(trace) = trace {
            let (trace, span, flags) = trace.raw_ids();
            record.set_trace_context(trace, span, Some(flags));
        }
        record.add_attributes(attributes.iter().map(|pair| (pair.key.clone(), any(&pair.value))));
        self.logger.emit(record);
    }
}

fn any(value: &Value) -> AnyValue {
    match value {
        Value::Bool(value) => AnyValue::Boolean(*value),
        Value::I64(value) => AnyValue::Int(*value),
        Value::F64(value) => AnyValue::Double(*value),
        other => AnyValue::from(other.as_str().into_owned()),
    }
}
