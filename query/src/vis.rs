//! `vis.json`: which functions of a script a view calls, and with what.
//!
//! It stands beside a script, as upstream's do: variables with defaults, and widgets, each of which
//! shows the table of a function. What a widget looks like is left to whoever shows it.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::diagnostics::did_you_mean;
use crate::eval::FunctionCall;

/// Functions that one view may call.
const CALLS_MAX: usize = 100;

/// A view of a script.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Vis {
    variables: Vec<Variable>,
    global_funcs: Vec<GlobalFunc>,
    widgets: Vec<Widget>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Variable {
    name: String,
    #[serde(default)]
    default_value: Option<String>,
    #[serde(default)]
    valid_values: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GlobalFunc {
    output_name: String,
    func: Func,
}

#[derive(Clone, Debug, Deserialize)]
struct Widget {
    #[serde(default)]
    name: String,
    func: Option<Func>,
}

#[derive(Clone, Debug, Deserialize)]
struct Func {
    name: String,
    #[serde(default)]
    args: Vec<Arg>,
}

#[derive(Clone, Debug, Deserialize)]
struct Arg {
    name: String,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    variable: Option<String>,
}

/// Why a view cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum VisError {
    /// It is no JSON, or other JSON.
    #[error("the view is not as vis.json should be: {0}")]
    Json(#[from] serde_json::Error),
    /// A variable has no default and was not given.
    #[error("the view needs a value for its variable `{0}`: give it as an argument")]
    Missing(String),
    /// A value is given for something that is no variable.
    #[error("the view has no variable `{name}`; {help}")]
    Unknown {
        /// What was given.
        name: String,
        /// What is there.
        help: String,
    },
    /// A value is none of those that the variable may have.
    #[error("`{value}` is no value of `{name}`, which is one of {valid}")]
    Invalid {
        /// The variable.
        name: String,
        /// The value.
        value: String,
        /// What would be valid.
        valid: String,
    },
    /// An argument is a variable that is not declared.
    #[error("the view passes its variable `{0}`, which it does not declare")]
    Undeclared(String),
    /// An argument has neither a value nor a variable.
    #[error("the view passes nothing as `{0}`: say a `value` or a `variable`")]
    NoValue(String),
    /// There are too many calls.
    #[error("the view calls {0} functions; at most {CALLS_MAX} are called")]
    TooMany(usize),
}

impl Vis {
    /// Reads the text of a `vis.json`.
    ///
    /// # Errors
    /// Where it is none.
    pub fn parse(json: &str) -> Result<Self, VisError> {
        Ok(serde_json::from_str(json)?)
    }

    /// The calls that fill the view, with `given` in place of its variables' defaults. A view that
    /// calls nothing shows what the script displays by itself.
    ///
    /// # Errors
    /// See [`VisError`].
    pub fn calls(&self, given: &BTreeMap<String, String>) -> Result<Vec<FunctionCall>, VisError> {
        let names = || self.variables.iter().map(|variable| variable.name.as_str());
        if let Some(name) = given.keys().find(|name| !names().any(|known| known == *name)) {
            let help = did_you_mean(name, names()).unwrap_or_else(|| {
                format!("its variables are {}", names().collect::<Vec<_>>().join(", "))
            });
            return Err(VisError::Unknown { name: name.clone(), help });
        }
        let global = self.global_funcs.iter().map(|g| (g.output_name.clone(), &g.func));
        let own = self.widgets.iter().enumerate().filter_map(|(at, widget)| {
            let name = Some(widget.name.clone()).filter(|name| !name.is_empty());
            Some((name.unwrap_or_else(|| format!("widget_{at}")), widget.func.as_ref()?))
        });
        let calls: Vec<_> = global.chain(own).collect();
        if calls.len() > CALLS_MAX {
            return Err(VisError::TooMany(calls.len()));
        }
        calls
            .into_iter()
            .map(|(output_prefix, func)| {
                let args = func.args.iter();
                let args = args.map(|arg| Ok((arg.name.clone(), self.value(arg, given)?)));
                let args = args.collect::<Result<_, VisError>>()?;
                Ok(FunctionCall { name: func.name.clone(), args, output_prefix })
            })
            .collect()
    }

    fn value(&self, arg: &Arg, given: &BTreeMap<String, String>) -> Result<String, VisError> {
        let Some(name) = &arg.variable else {
            return arg.value.clone().ok_or_else(|| VisError::NoValue(arg.name.clone()));
        };
        let variable = self.variables.iter().find(|variable| variable.name == *name);
        let variable = variable.ok_or_else(|| VisError::Undeclared(name.clone()))?;
        let value = given.get(name).or(variable.default_value.as_ref());
        let value = value.ok_or_else(|| VisError::Missing(name.clone()))?;
        if !variable.valid_values.is_empty() && !variable.valid_values.contains(value) {
            let (name, value) = (name.clone(), value.clone());
            let valid = variable.valid_values.join(", ");
            return Err(VisError::Invalid { name, value, valid });
        }
        Ok(value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: &str = r#"{
        "variables": [
            {"name": "start_time", "type": "PX_STRING", "defaultValue": "-5m"},
            {"name": "kind", "type": "PX_STRING", "defaultValue": "a", "validValues": ["a", "b"]},
            {"name": "pod", "type": "PX_POD"}
        ],
        "globalFuncs": [{"outputName": "traffic", "func": {"name": "traffic", "args": [
            {"name": "start", "variable": "start_time"}, {"name": "limit", "value": "7"}
        ]}}],
        "widgets": [
            {"name": "Traffic", "globalFuncOutputName": "traffic", "position": {"x": 0},
             "displaySpec": {"@type": "types.px.dev/px.vispb.Table"}},
            {"func": {"name": "of_pod", "args": [
                {"name": "pod", "variable": "pod"}, {"name": "kind", "variable": "kind"}]}}
        ]
    }"#;

    fn calls(given: &[(&str, &str)]) -> Result<Vec<FunctionCall>, String> {
        let given = given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Vis::parse(VIEW).unwrap().calls(&given).map_err(|error| error.to_string())
    }

    fn call(name: &str, args: &[(&str, &str)], output: &str) -> FunctionCall {
        let args = args.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        FunctionCall { name: name.to_owned(), args, output_prefix: output.to_owned() }
    }

    #[test]
    fn functions_that_widgets_share_are_called_once_with_given_and_default_values() {
        let wanted = vec![
            call("traffic", &[("start", "-5m"), ("limit", "7")], "traffic"),
            call("of_pod", &[("pod", "shop"), ("kind", "b")], "widget_1"),
        ];
        assert_eq!(calls(&[("pod", "shop"), ("kind", "b")]), Ok(wanted));
    }

    #[test]
    fn what_is_wrong_with_the_values_is_said_by_name() {
        let wrong = |given| calls(given).unwrap_err();
        assert!(wrong(&[]).contains("`pod`"));
        assert!(wrong(&[("pod", "x"), ("pood", "y")]).ends_with("did you mean `pod`?"));
        assert!(wrong(&[("pod", "x"), ("kind", "c")]).ends_with("which is one of a, b"));
        assert!(Vis::parse("[").is_err());
    }
}
