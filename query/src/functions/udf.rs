//! Shows a kernel to `DataFusion` as a scalar function.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::new_empty_array;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::environment::Environment;
use super::kernel::Inputs;
use super::{Body, Overload};

#[derive(Debug)]
struct KernelUdf {
    overload: &'static Overload,
    environment: Arc<Environment>,
    signature: Signature,
}

/// A plan lives in one run, and so in one environment.
impl PartialEq for KernelUdf {
    fn eq(&self, other: &Self) -> bool {
        self.overload == other.overload
    }
}

impl Eq for KernelUdf {}

impl Hash for KernelUdf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.overload.hash(state);
    }
}

impl ScalarUDFImpl for KernelUdf {
    fn name(&self) -> &str {
        self.overload.function
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(self.overload.result.arrow())
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(self.name(), self.overload.result.arrow(), false)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Body::Kernel(kernel) = &self.overload.body else {
            return internal_err!("{} has no kernel", self.name());
        };
        if args.number_rows == 0 {
            return Ok(ColumnarValue::Array(new_empty_array(&self.overload.result.arrow())));
        }
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let columns = args
            .args
            .into_iter()
            .map(|arg| match arg {
                ColumnarValue::Array(array) => Ok((array, false)),
                ColumnarValue::Scalar(scalar) => Ok((scalar.to_array_of_size(1)?, true)),
            })
            .collect::<Result<_>>()?;
        let rows = if constant { 1 } else { args.number_rows };
        let result = kernel(&self.environment, &Inputs::new(columns, rows))?;
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// The call of `overload` on `args`, which have its types already.
pub(crate) fn call(
    overload: &'static Overload,
    environment: &Arc<Environment>,
    args: Vec<Expr>,
) -> Expr {
    match &overload.body {
        Body::Native(build) => build(args),
        Body::Kernel(_) => {
            let types = overload.args.iter().map(|arg| arg.arrow()).collect();
            let signature = if overload.args.is_empty() {
                Signature::nullary(Volatility::Immutable)
            } else {
                Signature::exact(types, Volatility::Immutable)
            };
            let environment = Arc::clone(environment);
            ScalarUDF::new_from_impl(KernelUdf { overload, environment, signature }).call(args)
        }
    }
}
