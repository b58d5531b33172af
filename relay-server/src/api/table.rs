//! The table of endpoints: the one place where a path gets its handler, and with it a name and a
//! summary. What is not in it is not served under `/api/v1`.

use axum::{
    Router,
    handler::Handler,
    http::Method,
    routing::{MethodFilter, on},
};

use super::{
    ApiState,
    describe::{Describe, Describing},
};

/// Where every path of the table begins.
pub(super) const BASE: &str = "/api/v1";

/// An endpoint.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) method: Method,
    /// Below [`BASE`], with `{names}`.
    pub(super) path: &'static str,
    /// Its name: the kind of thing, a dot, and what is done; the audit log knows it by that.
    pub(super) id: &'static str,
    /// What it does, for people.
    pub(super) summary: &'static str,
    /// What its handler takes and answers.
    pub(super) describe: fn(&mut Describing<'_>),
}

/// Endpoints and the router that serves them.
#[derive(Default)]
pub(super) struct Table {
    router: Router<ApiState>,
    operations: Vec<Operation>,
}

macro_rules! methods {
    ($($verb:ident $method:ident;)+) => {$(
        /// Adds an endpoint of this method.
        pub(super) fn $verb<M, D, H>(
            self,
            path: &'static str,
            id: &'static str,
            summary: &'static str,
            handler: H,
        ) -> Self
        where
            H: Handler<M, ApiState> + Describe<D>,
            M: 'static,
        {
            let operation = Operation {
                method: Method::$method,
                path,
                id,
                summary,
                describe: <H as Describe<D>>::describe,
            };
            self.add(MethodFilter::$method, operation, handler)
        }
    )+};
}

impl Table {
    methods! {
        get GET;
        post POST;
        put PUT;
        patch PATCH;
        delete DELETE;
    }

    fn add<M, H>(mut self, filter: MethodFilter, operation: Operation, handler: H) -> Self
    where
        H: Handler<M, ApiState>,
        M: 'static,
    {
        self.router = self.router.route(operation.path, on(filter, handler));
        self.operations.push(operation);
        self
    }

    /// Adds all of another table.
    pub(super) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }

    pub(super) fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The router, to be nested at [`BASE`].
    pub(super) fn into_router(self) -> Router<ApiState> {
        self.router
    }
}

impl Operation {
    /// Whether it only looks.
    pub(super) fn is_read(&self) -> bool {
        self.method == Method::GET
    }
}
