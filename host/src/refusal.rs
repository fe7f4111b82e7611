// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! How the server's own routes (those beside MCP) say no: a status, and `{"error": "..."}`.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use waggle_protocol::message::FailureCode;

use crate::service::ServiceError;

/// An answer that says no.
pub(crate) fn refusal(status: StatusCode, error: &dyn std::error::Error) -> Response {
    tracing::info!(%status, %error, "a request was refused or failed");
    let body = Json(serde_json::json!({ "error": error.to_string() }));
    (status, body).into_response()
}

/// The status that goes with an error's words.
pub(crate) fn status(error: &ServiceError) -> StatusCode {
    match error {
        ServiceError::Argument(_) | ServiceError::Upload(_) => StatusCode::BAD_REQUEST,
        ServiceError::Unknown(_) => StatusCode::NOT_FOUND,
        ServiceError::NotRunning(_) | ServiceError::Port(_) => StatusCode::CONFLICT,
        ServiceError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        ServiceError::Guest(failure) => match failure.code {
            FailureCode::NotFound => StatusCode::NOT_FOUND,
            FailureCode::PermissionDenied => StatusCode::FORBIDDEN,
            FailureCode::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        },
        _ => StatusCode::BAD_GATEWAY,
    }
}
