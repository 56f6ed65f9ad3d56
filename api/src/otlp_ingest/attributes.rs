//! OTLP attributes as JSON text, and what a resource says about where its rows come from.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use opentelemetry_proto::tonic::common::v1::any_value::Value as OtlpValue;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use serde_json::{Map, Value};

/// Attributes as a JSON object with sorted keys; of two with one key the last counts.
pub(super) fn json(attributes: &[KeyValue]) -> String {
    object(attributes).to_string()
}

fn object(attributes: &[KeyValue]) -> Value {
    let sorted: BTreeMap<&str, &KeyValue> =
        attributes.iter().map(|attribute| (attribute.key.as_str(), attribute)).collect();
    let members = sorted.into_iter().map(|(key, attribute)| {
        (key.to_owned(), attribute.value.as_ref().map_or(Value::Null, value))
    });
    Value::Object(members.collect::<Map<_, _>>())
}

/// Nesting is bounded by the protobuf decoder, which refuses messages deeper than 100.
fn value(any: &AnyValue) -> Value {
    match &any.value {
        // References to a dictionary are for profiles only; other signals take them as absent.
        None | Some(OtlpValue::StringValueStrindex(_)) => Value::Null,
        Some(OtlpValue::StringValue(text)) => Value::String(text.clone()),
        Some(OtlpValue::BoolValue(flag)) => Value::Bool(*flag),
        Some(OtlpValue::IntValue(int)) => Value::from(*int),
        Some(OtlpValue::DoubleValue(double)) => number(*double),
        Some(OtlpValue::ArrayValue(array)) => {
            Value::Array(array.values.iter().map(value).collect())
        }
        Some(OtlpValue::KvlistValue(list)) => object(&list.values),
        Some(OtlpValue::BytesValue(bytes)) => Value::String(STANDARD.encode(bytes)),
    }
}

/// A double as JSON; what JSON has no number for becomes a string, as in protobuf's JSON mapping.
pub(super) fn number(double: f64) -> Value {
    serde_json::Number::from_f64(double).map_or_else(
        || {
            let name = match double {
                _ if double.is_nan() => "NaN",
                _ if double > 0.0 => "Infinity",
                _ => "-Infinity",
            };
            Value::String(name.to_owned())
        },
        Value::Number,
    )
}

/// Where rows come from, as their resource says.
#[derive(Debug, Default)]
pub(super) struct Origin {
    pub(super) service: String,
    pub(super) pod: String,
    pub(super) namespace: String,
    pub(super) node: String,
    /// All resource attributes as JSON.
    pub(super) resource: String,
}

impl Origin {
    pub(super) fn new(resource: Option<&Resource>) -> Self {
        let attributes = resource.map_or(&[][..], |resource| &resource.attributes);
        let text = |key: &str| text(attributes, key).unwrap_or_default();
        let namespace = text("k8s.namespace.name");
        let pod = match text("k8s.pod.name") {
            pod if pod.is_empty() || namespace.is_empty() => pod,
            pod => format!("{namespace}/{pod}"),
        };
        let node = match text("k8s.node.name") {
            node if node.is_empty() => text("host.name"),
            node => node,
        };
        Self { service: text("service.name"), pod, namespace, node, resource: json(attributes) }
    }

    /// Bytes of text that each row repeats.
    pub(super) fn text_bytes(&self) -> usize {
        self.service.len()
            + self.pod.len()
            + self.namespace.len()
            + self.node.len()
            + self.resource.len()
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let any = attributes.iter().rfind(|attribute| attribute.key == key)?.value.as_ref()?;
    Some(match value(any) {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValueList};

    use super::*;

    fn pair(key: &str, value: OtlpValue) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        }
    }

    #[test]
    fn every_kind_of_value_becomes_json_under_sorted_keys() {
        let inner = vec![
            pair("z", OtlpValue::BoolValue(true)),
            pair("a", OtlpValue::BytesValue(vec![0, 255])),
        ];
        let array =
            vec![AnyValue { value: Some(OtlpValue::IntValue(i64::MIN)) }, AnyValue { value: None }];
        let attributes = [
            pair("list", OtlpValue::ArrayValue(ArrayValue { values: array })),
            pair("nan", OtlpValue::DoubleValue(f64::NAN)),
            pair("map", OtlpValue::KvlistValue(KeyValueList { values: inner })),
            pair("ratio", OtlpValue::DoubleValue(0.5)),
            pair("path", OtlpValue::StringValue("/\"x\"".to_owned())),
        ];
        expect_test::expect![[
            r#"{"list":[-9223372036854775808,null],"map":{"a":"AP8=","z":true},"nan":"NaN","path":"/\"x\"","ratio":0.5}"#
        ]]
        .assert_eq(&json(&attributes));
    }

    #[test]
    fn a_resource_names_service_pod_and_node() {
        let attributes = vec![
            pair("service.name", OtlpValue::StringValue("cart".to_owned())),
            pair("k8s.pod.name", OtlpValue::StringValue("cart-1".to_owned())),
            pair("k8s.namespace.name", OtlpValue::StringValue("shop".to_owned())),
            pair("host.name", OtlpValue::StringValue("n1".to_owned())),
        ];
        let origin = Origin::new(Some(&Resource { attributes, ..Resource::default() }));
        assert_eq!(
            (&*origin.service, &*origin.pod, &*origin.namespace, &*origin.node),
            ("cart", "shop/cart-1", "shop", "n1")
        );
        assert_eq!(Origin::new(None).resource, "{}");
    }
}
