//! How the table of metrics becomes fields, a registry and a description.

use std::borrow::Cow;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// How a metric is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in buckets: the name with `_bucket`, `_sum` and `_count`.
    Histogram,
}

impl MetricKind {
    /// Returns the word of the exposition format.
    pub const fn as_str(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The name as it is scraped, with its unit; a counter's ends in `_total`.
    pub name: &'static str,
    /// How it is read.
    pub kind: MetricKind,
    /// The labels, each with its values; no values: routes, statuses, engines and the like, from closed or configured sets.
    pub labels: &'static [(&'static str, &'static [&'static str])],
    /// What it tells.
    pub help: &'static str,
}

/// Makes the table, the struct with a field a row, and its registry.
macro_rules! table {
    ($($field:ident: $kind:ident $name:literal [$($label:ident: [$($value:literal),*]),*] $help:literal)+) => {
        /// Every metric that there is.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $name,
            kind: table!(@kind $kind),
            labels: &[$((stringify!($label), &[$($value),*])),*],
            help: $help,
        }),+];

        /// Where everything is counted: the server's own, and what the library tells its observer.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $($field: table!(@type $kind $($label)*),)+
        }

        impl Default for Metrics {
            fn default() -> Self {
                let mut registry = Registry::default();
                $(
                    let $field = table!(@new $kind [$($label: [$($value),*]),*]);
                    // The registry adds `_total` by itself.
                    registry.register($name.trim_end_matches("_total"), $help, $field.clone());
                )+
                Self { registry, $($field),+ }
            }
        }
    };
    (@new $kind:ident []) => { <$kind as Single>::single() };
    (@new $kind:ident [$($label:ident: [$($value:literal),*]),+]) => { many::<_, $kind>(&[$((stringify!($label), &[$($value),*])),+]) };
    (@kind Total) => { MetricKind::Counter };
    (@kind Level) => { MetricKind::Gauge };
    (@kind Fraction) => { MetricKind::Gauge };
    (@kind Seconds) => { MetricKind::Histogram };
    (@kind Sizes) => { MetricKind::Histogram };
    (@kind Ratio) => { MetricKind::Histogram };
    (@type $kind:ident) => { <$kind as Single>::Metric };
    (@type $kind:ident $($label:ident)+) => { Many<{ <[&str]>::len(&[$(stringify!($label)),+]) }, <$kind as Single>::Metric> };
}
pub(crate) use table;

/// A label with its value.
pub(crate) type Label = (&'static str, Cow<'static, str>);
/// A metric for each set of label values.
pub(crate) type Many<const N: usize, M> = Family<[Label; N], M, fn() -> M>;

/// How one metric of a kind is made.
pub(crate) trait Single {
    type Metric: Clone;
    fn single() -> Self::Metric;
}

macro_rules! single {
    ($($(#[$doc:meta])* $kind:ident: $metric:ty = $new:expr;)+) => {
        $($(#[$doc])* pub(crate) enum $kind {}
        impl Single for $kind {
            type Metric = $metric;
            fn single() -> $metric {
                $new
            }
        })+
    };
}

single! {
    /// Only grows.
    Total: Counter = Counter::default();
    /// A whole number that goes up and down.
    Level: Gauge = Gauge::default();
    /// A number that goes up and down.
    Fraction: Gauge<f64, AtomicU64> = Gauge::default();
    /// Times from 0.1 ms to 26 s.
    Seconds: Histogram = Histogram::new(exponential_buckets(0.000_1, 4.0, 10));
    /// Counts from 1 to 512.
    Sizes: Histogram = Histogram::new(exponential_buckets(1.0, 2.0, 10));
    /// Ratios from 1/64 to 8.
    Ratio: Histogram = Histogram::new(exponential_buckets(1.0 / 64.0, 2.0, 10));
}

/// Makes a metric with labels. Where all values are known, all are there from the start: a series that is born as 1 shows no increase.
pub(crate) fn many<const N: usize, S: Single>(labels: &[(&'static str, &[&'static str]); N]) -> Many<N, S::Metric> {
    let family = Many::new_with_constructor(S::single as fn() -> S::Metric);
    let mut sets: Vec<Vec<Label>> = vec![Vec::new()];
    for (label, values) in labels {
        sets = sets
            .iter()
            .flat_map(|set| values.iter().map(|value| set.iter().cloned().chain([(*label, Cow::Borrowed(*value))]).collect()))
            .collect();
    }
    for set in sets {
        if let Ok(set) = <[Label; N]>::try_from(set) {
            drop(family.get_or_create(&set));
        }
    }
    family
}
