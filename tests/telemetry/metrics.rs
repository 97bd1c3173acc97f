//! The page of metrics, and what of them is pushed.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    HistogramDataPoint, Metric, NumberDataPoint, number_data_point,
};
use tonic::Code;

use crate::support::World;
use crate::support::collector::attribute;
use crate::support::kserve::question;
use crate::support::pictures::{one_pixel, photo, photo_question};
use crate::support::upstream::Step;
use crate::traced;

#[tokio::test]
async fn every_judged_row_is_measured_against_the_nearest_anchor() {
    let world = World::new().config("mode = 'observe'").start().await;
    let client = world.client().await;
    for picture in [photo(1), photo(2), one_pixel(&photo(1), 3), photo(1)] {
        assert!(client.infer(&question([&picture])).await.is_ok());
    }
    let page = world.metrics();
    let value = |name: &str| -> f64 {
        let line =
            page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in\n{page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    // The first row of all has no anchor to be measured against.
    assert_eq!(value("refrain_match_distance_count{exact=\"false\",model=\"clf\"}") as u32, 2);
    assert_eq!(value("refrain_match_distance_count{exact=\"true\",model=\"clf\"}") as u32, 1);
    assert_eq!(value("refrain_match_distance_bucket{exact=\"false\",model=\"clf\",le=\"10\"}") as u32, 1);
    assert_eq!(
        value("refrain_match_distance_positions_bucket{exact=\"false\",model=\"clf\",le=\"1\"}") as u32,
        1
    );
    for decided in [
        "decision=\"forwarded\",model=\"clf\",reason=\"new\",ruling=\"forward\"",
        "decision=\"monitored\",model=\"clf\",reason=\"exact\",ruling=\"replay\"",
    ] {
        assert!(value(&format!("refrain_decisions_total{{{decided}}}")) >= 1.0);
    }
    let client_calls = "rpc_client_call_duration_seconds_count{rpc_method=\"inference.GRPCInferenceService/ModelInfer\",\
                        rpc_status_code=\"OK\",rpc_system_name=\"grpc\"}";
    assert_eq!(value(client_calls) as u32, 4);
    for stage in ["read", "judge", "settle", "total"] {
        assert_eq!(
            value(&format!("refrain_added_latency_seconds_count{{stage=\"{stage}\"}}")) as u32,
            4,
            "{stage}"
        );
    }
    assert_eq!(value("refrain_sessions_active") as u32, 1);
    assert!(
        value("refrain_store_usage_bytes") > 0.0
            && value("refrain_store_limit_bytes") > value("refrain_store_usage_bytes")
    );
}

/// What is pushed, as the page would write it: its names by the rules of Prometheus, its counts as they are.
fn as_the_page_writes_it(metric: &Metric) -> Vec<(String, f64)> {
    let unit = match metric.unit.as_str() {
        "s" => "_seconds",
        "By" => "_bytes",
        _ => "",
    };
    let name = format!("{}{unit}", metric.name.replace('.', "_"));
    let labels = |attributes: &[KeyValue]| {
        let mut pairs: Vec<String> = attributes
            .iter()
            .map(|pair| {
                let value = attribute(attributes, &pair.key).unwrap();
                format!("{}=\"{value}\"", pair.key.replace('.', "_"))
            })
            .collect();
        pairs.sort();
        if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
    };
    let number = |point: &NumberDataPoint| match point.value.unwrap() {
        number_data_point::Value::AsInt(value) => value as f64,
        number_data_point::Value::AsDouble(value) => value,
    };
    let numbers = |points: &[NumberDataPoint], suffix: &str| {
        let sample =
            |point: &NumberDataPoint| (format!("{name}{suffix}{}", labels(&point.attributes)), number(point));
        points.iter().map(sample).collect()
    };
    match metric.data.as_ref().unwrap() {
        Data::Gauge(gauge) => numbers(&gauge.data_points, ""),
        Data::Sum(sum) => numbers(&sum.data_points, if sum.is_monotonic { "_total" } else { "" }),
        Data::Histogram(histogram) => {
            let count = |point: &HistogramDataPoint| {
                (format!("{name}_count{}", labels(&point.attributes)), point.count as f64)
            };
            histogram.data_points.iter().map(count).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_collector_is_told_the_same_as_the_page_by_the_conventions_names() {
    let (collector, world) = traced("timing.mode = 'mean'").await;
    let client = world.client().await;
    for picture in [photo(1), photo(2), one_pixel(&photo(1), 3), photo(1)] {
        assert!(client.infer(&question([&picture])).await.is_ok());
    }
    world.upstream.then(Step::Status(Code::Unavailable, "later"));
    assert_eq!(client.infer(&photo_question(9)).await.code(), Some(Code::Unavailable));
    let page = world.metrics();
    // The last push is at the end; nothing was asked in between.
    world.stop().await;
    let pushed = collector.look(|taken| taken.metrics.last().cloned()).unwrap();

    let names: Vec<(&str, &str)> =
        pushed.iter().map(|metric| (metric.name.as_str(), metric.unit.as_str())).collect();
    for wanted in [
        ("rpc.server.call.duration", "s"),
        ("rpc.client.call.duration", "s"),
        ("refrain.decisions", "{row}"),
        ("refrain.match.distance", "{bit}"),
        ("refrain.delay.added", "s"),
        ("refrain.store.usage", "By"),
        ("refrain.suspected_callers", "{session}"),
        ("refrain.telemetry.dropped", "{item}"),
    ] {
        assert!(names.contains(&wanted), "{wanted:?} in {names:?}");
    }
    let of_process = ["refrain_telemetry_", "refrain_store_"];
    let counted = |samples: Vec<(String, f64)>| -> BTreeMap<String, u64> {
        let of_calls = |name: &str| !of_process.iter().any(|other| name.starts_with(other));
        let whole = |(name, value): (String, f64)| (name, value as u64);
        samples.into_iter().filter(|(name, _)| of_calls(name)).map(whole).collect()
    };
    let told = counted(pushed.iter().flat_map(as_the_page_writes_it).collect());
    let shown = page.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse::<f64>().unwrap())
    });
    let is_part = |name: &str| {
        name.split('{').next().is_some_and(|name| name.ends_with("_bucket") || name.ends_with("_sum"))
    };
    assert_eq!(told, counted(shown.filter(|(name, _)| !is_part(name)).collect()));

    let calls = pushed.iter().find(|metric| metric.name == "rpc.server.call.duration").unwrap();
    let Some(Data::Histogram(calls)) = &calls.data else { panic!("{calls:?}") };
    assert_eq!(calls.aggregation_temporality, 2, "since the start");
    let codes: Vec<String> = calls
        .data_points
        .iter()
        .map(|point| attribute(&point.attributes, "rpc.status_code").unwrap())
        .collect();
    assert!(codes.contains(&"OK".to_owned()) && codes.contains(&"UNAVAILABLE".to_owned()), "{codes:?}");
    assert!(calls.data_points.iter().all(|point| point.explicit_bounds.contains(&250e-6)));
    collector.look(|taken| {
        let resource = taken.resource.as_ref().unwrap();
        assert_eq!(attribute(&resource.attributes, "service.name").as_deref(), Some("refrain"));
        assert!(taken.schemas.iter().all(|schema| schema == "https://opentelemetry.io/schemas/1.45.0"));
    });
}

#[tokio::test]
async fn sidecars_of_one_process_count_each_for_itself() {
    let (first, second) = (World::new().start().await, World::new().start().await);
    assert!(first.client().await.infer(&photo_question(1)).await.is_ok());
    assert_eq!((first.totals().forwarded_rows, second.totals().forwarded_rows), (1, 0));
    assert!(second.metrics().contains("refrain_forwarded_rows_total 0\n"));
}

#[tokio::test]
async fn a_model_that_a_caller_invents_is_no_series() {
    let world = World::new().start().await;
    let client = world.client().await;
    for number in 0..20 {
        let mut question = photo_question(number);
        question.model_name = format!("invented-{number}");
        assert_eq!(client.infer(&question).await.code(), Some(Code::NotFound));
    }
    assert!(!world.metrics().contains("invented"));
}
