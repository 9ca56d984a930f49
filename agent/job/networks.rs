//! Values about networks: `--publish`, `--expose`, `--network` and what goes with it.

use std::{net::IpAddr, ops::RangeInclusive};

use serde_json::{Map, Value, json};

use super::{go, values::Read};

/// One published port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// `80/tcp`.
    pub(crate) port: String,
    /// An address of the VM, or nothing for all.
    pub(crate) host_address: String,
    /// A port or a range of the VM, or nothing for any.
    pub(crate) host_port: String,
}

/// `[[ip:][host port or range]:]port or range[/protocol]`, an IPv6 address in brackets; or
/// `target=80,published=8080,protocol=tcp`.
pub(crate) fn publish(value: &str) -> Read<Vec<Published>> {
    let expected = || "[[address:]port-on-vm:]port[/tcp|udp|sctp], ranges as 8000-8010".to_owned();
    let standard = if value.contains('=') { long_form(value)? } else { value.to_owned() };
    let (rest, last) = standard.rsplit_once(':').unwrap_or(("", &standard));
    let (port, protocol) = port_and_protocol(last).ok_or_else(expected)?;
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&&*protocol) {
        return Err(expected());
    }
    let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    let address = address.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')).unwrap_or(address);
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(expected());
    }
    let ports = port_range(port).ok_or_else(expected)?;
    let host = match host {
        "" => None,
        range => Some(port_range(range).ok_or_else(expected)?),
    };
    let any_of = host.as_ref().filter(|host| ports.len() == 1 && host.len() > 1);
    if any_of.is_none() && host.as_ref().is_some_and(|host| host.len() != ports.len()) {
        return Err("ranges of one length on both sides".to_owned());
    }
    let host_port = |index: usize| match (&host, any_of) {
        (_, Some(range)) => format!("{}-{}", range.start(), range.end()),
        (Some(range), None) => (usize::from(*range.start()) + index).to_string(),
        (None, None) => String::new(),
    };
    let published = ports.enumerate().map(|(index, port)| Published {
        port: format!("{port}/{protocol}"),
        host_address: address.to_owned(),
        host_port: host_port(index),
    });
    Ok(published.collect())
}

fn long_form(value: &str) -> Read<String> {
    let (mut published, mut target, mut protocol) = ("", "", "tcp");
    for field in value.split(',') {
        match field.split_once('=') {
            Some(("published", text)) => published = text,
            Some(("target", text)) => target = text,
            Some(("protocol", text)) => protocol = text,
            Some((key, _)) if !key.is_empty() => {}
            _ => return Err("target=80,published=8080,protocol=tcp".to_owned()),
        }
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

/// `--expose`: a port or a range, with any protocol.
pub(crate) fn expose(value: &str) -> Read<Vec<String>> {
    let expected = || "port[/protocol], or a range as 8000-8010".to_owned();
    let (port, protocol) = port_and_protocol(value).ok_or_else(expected)?;
    let ports = port_range(port).ok_or_else(expected)?;
    Ok(ports.map(|port| format!("{port}/{protocol}")).collect())
}

/// The parts before and after the first slash; what a further one sets apart is passed over, as by the CLI.
fn port_and_protocol(text: &str) -> Option<(&str, &str)> {
    let mut parts = text.split('/');
    let port = parts.next().filter(|port| !port.is_empty())?;
    Some((port, parts.next().filter(|protocol| !protocol.is_empty()).unwrap_or("tcp")))
}

/// `80` or `8000-8010`; what a further dash sets apart is passed over, as by the CLI.
fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut parts = text.split('-');
    let first = go::digits(parts.next()?)?;
    let range = first..=parts.next().map_or(Some(first), go::digits)?;
    (!range.is_empty()).then_some(range)
}

/// The networks of a container, and the flags that speak of the first one.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    attached: Vec<Attachment>,
    pub(crate) aliases: Vec<String>,
    pub(crate) links: Vec<String>,
    pub(crate) link_local: Vec<String>,
    pub(crate) v4: String,
    pub(crate) v6: String,
    pub(crate) mac: String,
}

/// One network and the container's place in it.
#[derive(Clone, Debug, Default)]
struct Attachment {
    network: String,
    aliases: Vec<String>,
    links: Vec<String>,
    link_local: Vec<String>,
    v4: String,
    v6: String,
    mac: String,
    driver_options: Map<String, Value>,
    priority: i64,
}

impl Networks {
    /// `--network`: a name, or `name=…,alias=…,ip=…`.
    pub(crate) fn attach(&mut self, value: &str) -> Read<()> {
        // The CLI's own test for the long form: a word, an equals sign and a word, anywhere.
        let is_word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        let long = value.match_indices('=').any(|(at, _)| {
            is_word(value[..at].chars().next_back()) && is_word(value[at + 1..].chars().next())
        });
        let attachment = if long {
            Attachment::from_fields(value)?
        } else {
            Attachment { network: value.to_owned(), ..Attachment::default() }
        };
        self.attached.push(attachment);
        Ok(())
    }

    /// `HostConfig.NetworkMode`, if a network was named.
    pub(crate) fn mode(&self) -> Option<&str> {
        self.attached.first().map(|first| &*first.network)
    }

    /// `NetworkingConfig.EndpointsConfig`; the error names flags that contradict one another.
    pub(crate) fn endpoints(&self) -> Read<Map<String, Value>> {
        let mut attached = self.attached.clone();
        if attached.is_empty() {
            attached.push(Attachment { network: "default".to_owned(), ..Attachment::default() });
        }
        self.add_flags(&mut attached[0])?;
        let user_defined = attached.iter().filter(|one| is_user_defined(&one.network)).count();
        if user_defined != 0 && user_defined != attached.len() {
            return Err("--network: networks of your own and Docker's (bridge, host, none) cannot be mixed"
                .to_owned());
        }
        let alone = attached.len() == 1;
        let mut endpoints = Map::new();
        for one in attached {
            let endpoint = one.endpoint()?;
            if alone && endpoint.is_empty() {
                continue;
            }
            if endpoints.insert(one.network.clone(), endpoint.into()).is_some() {
                return Err(format!("--network: {} is there twice", one.network));
            }
        }
        Ok(endpoints)
    }

    /// The flags about the first network; none may be given twice, in both forms.
    fn add_flags(&self, first: &mut Attachment) -> Read<()> {
        let both = |flag: &str| Err(format!("{flag} or its field of --network, not both"));
        let lists = [
            ("--network-alias", &self.aliases, &mut first.aliases),
            ("--link-local-ip", &self.link_local, &mut first.link_local),
        ];
        for (flag, given, field) in lists {
            if !given.is_empty() && !field.is_empty() {
                return both(flag);
            }
            field.extend_from_slice(given);
        }
        if is_user_defined(&first.network) {
            first.links.clone_from(&self.links);
        }
        let texts = [
            ("--ip", &self.v4, &mut first.v4),
            ("--ip6", &self.v6, &mut first.v6),
            ("--mac-address", &self.mac, &mut first.mac),
        ];
        for (flag, given, field) in texts {
            if !given.is_empty() && !field.is_empty() {
                return both(flag);
            }
            field.push_str(given);
        }
        Ok(())
    }
}

impl Attachment {
    fn from_fields(value: &str) -> Read<Self> {
        let mut attachment = Self::default();
        for field in go::csv(value)? {
            let expected = || {
                format!(
                    "a field of --network (name, alias, ip, ip6, mac-address, link-local-ip, driver-opt, gw-priority) in place of `{field}`"
                )
            };
            let lower = field.to_ascii_lowercase();
            let (key, text) = lower.split_once('=').ok_or_else(expected)?;
            let text = text.trim();
            match key.trim() {
                "name" => text.clone_into(&mut attachment.network),
                "alias" => attachment.aliases.push(text.to_owned()),
                "ip" => text.clone_into(&mut attachment.v4),
                "ip6" => text.clone_into(&mut attachment.v6),
                "mac-address" if text.is_empty() => {}
                "mac-address" => attachment.mac = mac_address(text)?,
                "link-local-ip" => attachment.link_local.push(text.to_owned()),
                "gw-priority" => attachment.priority = text.parse().map_err(|_| expected())?,
                "driver-opt" => {
                    let pair = text.split_once('=').filter(|(key, _)| !key.trim().is_empty());
                    let (key, text) = pair.ok_or_else(expected)?;
                    attachment.driver_options.insert(key.trim().to_owned(), text.trim().into());
                }
                _ => return Err(expected()),
            }
        }
        match attachment.network.is_empty() {
            true => Err("name=network among its fields".to_owned()),
            false => Ok(attachment),
        }
    }

    fn endpoint(&self) -> Read<Map<String, Value>> {
        if self.network.trim().is_empty() {
            return Err("--network: a name".to_owned());
        }
        if !is_user_defined(&self.network) && !self.aliases.is_empty() {
            return Err(
                "--network-alias: a network of your own; Docker's (bridge, host, none) have no aliases"
                    .to_owned(),
            );
        }
        let mut endpoint = Map::new();
        let mut put = |key: &str, value: Value| drop(endpoint.insert(key.to_owned(), value));
        let lists = [("Aliases", &self.aliases), ("Links", &self.links)];
        for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            put(key, list.clone().into());
        }
        if !self.driver_options.is_empty() {
            put("DriverOpts", self.driver_options.clone().into());
        }
        if !self.mac.is_empty() {
            put("MacAddress", self.mac.clone().into());
        }
        if self.priority != 0 {
            put("GwPriority", self.priority.into());
        }
        let mut addresses = Map::new();
        for (key, text) in [("IPv4Address", &self.v4), ("IPv6Address", &self.v6)] {
            if !text.is_empty() {
                addresses.insert(key.to_owned(), text.clone().into());
            }
        }
        if !self.link_local.is_empty() {
            addresses.insert("LinkLocalIPs".to_owned(), self.link_local.clone().into());
        }
        if !addresses.is_empty() {
            put("IPAMConfig", json!(addresses));
        }
        Ok(endpoint)
    }
}

fn is_user_defined(network: &str) -> bool {
    !matches!(network, "" | "default" | "bridge" | "host" | "none") && !network.starts_with("container:")
}

/// Six, eight or twenty bytes, as Go's `net.ParseMAC` reads them; kept as they were written.
pub(crate) fn mac_address(value: &str) -> Read<String> {
    let hex =
        |text: &str, length: usize| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let trimmed = value.trim();
    let in_bytes = |separator: char| {
        let parts: Vec<_> = trimmed.split(separator).collect();
        matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(|part| hex(part, 2))
    };
    let in_words = || {
        let parts: Vec<_> = trimmed.split('.').collect();
        matches!(parts.len(), 3 | 4 | 10) && parts.iter().all(|part| hex(part, 4))
    };
    match in_bytes(':') || in_bytes('-') || in_words() {
        true => Ok(value.to_owned()),
        false => Err("a MAC address such as 92:d0:c6:0a:29:33".to_owned()),
    }
}
