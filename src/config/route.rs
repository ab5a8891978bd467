//! The `tls` and `proxy` of a connection: what they refer to is read and tried here, so that it can be used.

use secrecy::{ExposeSecret, SecretString};
use toml::Spanned;
use url::Url;

use super::Egress;
use super::raw::{RawConnection, RawProxy, RawTls, Text};
use super::resolve::Context;
use super::value::{self, Refusal, refusal};
use crate::egress::route::{InvalidRoute, Route};

/// Resolves how a connection's requests are made. What is not read leaves the default: nothing is sent then.
pub(super) fn resolve(
    raw: &RawConnection,
    path: &str,
    egress: Option<&Egress>,
    context: &mut Context<'_>,
) -> Option<Route> {
    let route = match &raw.tls {
        Some(tls) => with_tls(Route::default(), tls, &format!("{path}.tls"), context),
        None => Some(Route::default()),
    };
    match &raw.proxy {
        Some(proxy) => through(route, proxy, (&format!("{path}.proxy"), egress), context),
        None => route,
    }
}

fn with_tls(mut route: Route, raw: &Spanned<RawTls>, path: &str, context: &mut Context<'_>) -> Option<Route> {
    let written = raw.get_ref();
    if let Some(text) = &written.ca {
        let path = format!("{path}.ca");
        let ca = material(text, &path, context)?;
        if let Material::Read(ca) = ca {
            let trusting = route.trusting(ca.expose_secret()).map_err(explained);
            route = context.accept(trusting, text, &path)?;
        }
    }
    match (&written.client_cert, &written.client_key) {
        (None, None) if written.ca.is_none() => {
            let help = "write ca = \"file:PATH\", or client_cert and client_key, or remove `tls`";
            context.accept(Err(refusal("nothing stands in it", help)), raw, path)
        }
        (None, None) => Some(route),
        (Some(certificate), Some(key)) => {
            let shown = material(certificate, &format!("{path}.client_cert"), context);
            let key_path = format!("{path}.client_key");
            let secret = material(key, &key_path, context);
            let (Material::Read(shown), Material::Read(secret)) = (shown?, secret?) else {
                return Some(route);
            };
            let showing = route.showing(shown.expose_secret(), &secret);
            let (at, path) = match showing {
                Err(InvalidRoute::Certificates) => (certificate, format!("{path}.client_cert")),
                Ok(_) | Err(_) => (key, key_path),
            };
            context.accept(showing.map_err(explained), at, &path)
        }
        (Some(_), None) => {
            let help = "write client_key = \"file:PATH\" in it: the certificate's private key in PEM";
            context.missing(raw, &format!("{path}.client_key"), help)
        }
        (None, Some(_)) => {
            let help = "write client_cert = \"file:PATH\" in it: the key's certificate in PEM";
            context.missing(raw, &format!("{path}.client_cert"), help)
        }
    }
}

/// What stands behind a reference.
enum Material {
    Read(SecretString),
    /// It is a reference, and is not needed.
    Unread,
}

fn material(text: &Text, path: &str, context: &mut Context<'_>) -> Option<Material> {
    let (folder, environment) = (context.folder, context.surroundings.environment);
    let read = if context.reads(path) {
        value::certificates(text.get_ref(), folder, environment).map(Material::Read)
    } else {
        value::secret_reference(text.get_ref()).map(|()| Material::Unread)
    };
    context.accept(read, text, path)
}

fn through(
    route: Option<Route>,
    raw: &Spanned<RawProxy>,
    (path, egress): (&str, Option<&Egress>),
    context: &mut Context<'_>,
) -> Option<Route> {
    let written = raw.get_ref();
    let url = if let Some(text) = &written.url {
        let checked = address(text.get_ref(), egress);
        context.accept(checked, text, &format!("{path}.url"))
    } else {
        let help =
            "write url = \"https://proxy.example.com:3128\" in it, or with http where it speaks plain text";
        context.missing(raw, &format!("{path}.url"), help)
    };
    let login = match (&written.user, &written.password) {
        (None, None) => Some(None),
        (Some(user), Some(password)) => {
            let named = user_name(user.get_ref());
            let named = context.accept(named, user, &format!("{path}.user"));
            let password = context.secret(password, &format!("{path}.password"), Ok);
            named.zip(password).map(Some)
        }
        (Some(_), None) => {
            let help = "write password = \"env:NAME\" or \"file:PATH\" in it";
            context.missing(raw, &format!("{path}.password"), help)
        }
        (None, Some(_)) => context.missing(raw, &format!("{path}.user"), "write user = \"…\" in it"),
    };
    let (route, url, login) = (route?, url?, login?);
    let login = login.as_ref().map(|(user, password)| (user.as_str(), password));
    context.accept(route.through(&url, login).map_err(explained), raw, path)
}

/// Parses a proxy's address. Its own is judged as one over TLS is: what goes through it is TLS from end to end.
fn address(text: &str, egress: Option<&Egress>) -> Result<Url, Refusal> {
    let url = value::web_address(text)?;
    let help = "write it as \"https://proxy.example.com:3128\", or with http where it speaks plain text";
    if url.path() != "/" || url.query().is_some() {
        return Err(refusal("a proxy's address has no path and no query", help));
    }
    let mut judged = url.clone();
    let tls = judged
        .set_scheme("https")
        .and_then(|()| judged.set_port(url.port_or_known_default()));
    match (tls, egress) {
        (Err(()), _) => Err(refusal("not a proxy's address", help)),
        (Ok(()), Some(egress)) => value::reachable(&judged, egress).map(|()| url),
        (Ok(()), None) => Ok(url),
    }
}

fn user_name(text: &str) -> Result<String, Refusal> {
    if text.is_empty() || text.contains(':') || text.chars().any(char::is_control) {
        let help = "write the user name alone; the password stands in `password`";
        return Err(refusal("not a user name for HTTP Basic", help));
    }
    Ok(text.to_owned())
}

fn explained(invalid: InvalidRoute) -> Refusal {
    let help = match invalid {
        InvalidRoute::Certificates => {
            "write the file's certificates in PEM; `openssl x509 -in FILE -text` reads one"
        }
        InvalidRoute::Encrypted => "write it without, with `openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW`",
        InvalidRoute::Key => "name the file of the private key, in PEM",
        InvalidRoute::Mismatch => {
            "name the key that the certificate was made for, and put its own certificate first in the file"
        }
        InvalidRoute::Proxy => "write it as \"https://proxy.example.com:3128\"",
    };
    refusal(invalid.to_string(), help)
}
