vcl 4.1;
# The CDN layer: keeps the page's knowledge (GET /api/v1/topics/...) as CDN-Cache-Control says (RFC 9213), serves it stale while
# it is fetched anew or when the origin fails (RFC 5861), and drops it by tag.
#
#   PURGE / with `xkey-purge: tag [tag ...]`    drop what carries any of the tags (Cache-Tag or Surrogate-Key of the answer)
#   PURGE / with `xkey-softpurge: tag ...`      make it stale: served while it is fetched anew
#   PURGE /path                                 drop one address
# Needs varnish-modules (in the official image) for xkey.

import std;
import directors;
import xkey;

probe ready { .url = "/api/ready"; .interval = 2s; .timeout = 1s; .window = 4; .threshold = 2; .initial = 2; }

backend backend_1 { .host = "backend-1"; .port = "8080"; .probe = ready; .connect_timeout = 1s; .first_byte_timeout = 90s; .between_bytes_timeout = 30s; }
backend backend_2 { .host = "backend-2"; .port = "8080"; .probe = ready; .connect_timeout = 1s; .first_byte_timeout = 90s; .between_bytes_timeout = 30s; }
backend backend_3 { .host = "backend-3"; .port = "8080"; .probe = ready; .connect_timeout = 1s; .first_byte_timeout = 90s; .between_bytes_timeout = 30s; }

sub vcl_init {
    new gateway = directors.round_robin();
    gateway.add_backend(backend_1);
    gateway.add_backend(backend_2);
    gateway.add_backend(backend_3);
}

# nginx passes GET and HEAD only, so a PURGE comes from the inner network: the gateway's own.
acl purgers { "localhost"; "10.0.0.0"/8; "172.16.0.0"/12; "192.168.0.0"/16; }

sub vcl_recv {
    set req.backend_hint = gateway.backend();
    if (req.restarts == 0) {
        unset req.http.X-Stale;
        unset req.http.X-Fresh;
        # Varnish adds the address of nginx; the gateway is to see the one that nginx saw.
        set req.http.X-Forwarded-For = regsub(req.http.X-Forwarded-For, ",[^,]*$", "");
    }
    # hash_always_miss survives a restart, so it is set both ways each time.
    set req.hash_always_miss = req.http.X-Fresh == "1";

    if (req.method == "PURGE") {
        if (client.ip !~ purgers) { return (synth(403, "Forbidden")); }
        if (req.http.xkey-purge) {
            set req.http.X-Purged = xkey.purge(req.http.xkey-purge);
            return (synth(200, "Purged"));
        }
        if (req.http.xkey-softpurge) {
            set req.http.X-Purged = xkey.softpurge(req.http.xkey-softpurge);
            return (synth(200, "Purged"));
        }
        return (purge);
    }
    if (req.method != "GET" && req.method != "HEAD") { return (pass); }
    if (req.url !~ "^/api/v1/topics/") { return (pass); }
    # Whoever says who they are gets their own answer, from the origin.
    if (req.http.Authorization || req.http.X-API-Key) { return (pass); }
    unset req.http.Cookie;
    set req.url = std.querysort(req.url);
    return (hash);
}

sub vcl_hash {
    # Not the Host: answers don't depend on it, and a caller could fill the cache with invented ones.
    hash_data(req.url);
    return (lookup);
}

sub vcl_hit {
    # Past stale-while-revalidate: fetch; the old answer serves only if that fails (stale-if-error).
    if (obj.ttl + std.duration(obj.http.X-SWR + "s", 0s) < 0s && !req.http.X-Stale) {
        set req.http.X-Fresh = "1";
        return (restart);
    }
}

sub vcl_backend_fetch {
    unset bereq.http.X-Fresh;
    unset bereq.http.X-Stale;
}

sub vcl_backend_response {
    # A failure is delivered with no life at all; the built-in rules would remember it as hit-for-miss.
    if (beresp.status >= 500) {
        if (bereq.is_bgfetch) { return (abandon); }
        if (bereq.retries < 1 && beresp.status == 503) { return (retry); }
        set beresp.ttl = 0s;
        set beresp.grace = 0s;
        return (deliver);
    }
    # Tags, under the name that the xkey module reads.
    if (beresp.http.Cache-Tag) { set beresp.http.xkey = regsuball(beresp.http.Cache-Tag, ",", " "); }
    else if (beresp.http.Surrogate-Key) { set beresp.http.xkey = beresp.http.Surrogate-Key; }

    # RFC 9213: where CDN-Cache-Control is given, Cache-Control is for those further down.
    if (beresp.http.CDN-Cache-Control) { set beresp.http.X-CC = beresp.http.CDN-Cache-Control; }
    else if (beresp.http.Cache-Control) { set beresp.http.X-CC = beresp.http.Cache-Control; }
    else { set beresp.http.X-CC = "no-store"; }

    set beresp.http.X-SWR = "0";
    set beresp.http.X-SIE = "0";
    if (beresp.http.X-CC ~ "(?i)stale-while-revalidate=[0-9]+") {
        set beresp.http.X-SWR = regsub(beresp.http.X-CC, "(?i)^.*stale-while-revalidate=([0-9]+).*$", "\1");
    }
    if (beresp.http.X-CC ~ "(?i)stale-if-error=[0-9]+") {
        set beresp.http.X-SIE = regsub(beresp.http.X-CC, "(?i)^.*stale-if-error=([0-9]+).*$", "\1");
    }

    if (beresp.http.X-CC ~ "(?i)(no-store|private|no-cache)" || beresp.http.Set-Cookie || beresp.http.Vary ~ "\*") {
        set beresp.uncacheable = true;
        set beresp.ttl = 10s;   # remembered as not to be kept, so that waiting requests don't queue for it
        unset beresp.http.X-CC;
        return (deliver);
    }
    if (beresp.http.CDN-Cache-Control) {
        if (beresp.http.X-CC ~ "(?i)max-age=[0-9]+") {
            set beresp.ttl = std.duration(regsub(beresp.http.X-CC, "(?i)^.*max-age=([0-9]+).*$", "\1") + "s", 0s);
        } else {
            set beresp.ttl = 0s;
        }
        set beresp.http.X-Targeted = "1";
    }
    unset beresp.http.X-CC;
    set beresp.grace = std.duration(beresp.http.X-SWR + "s", 0s);
    if (std.duration(beresp.http.X-SIE + "s", 0s) > beresp.grace) {
        set beresp.grace = std.duration(beresp.http.X-SIE + "s", 0s);
    }
    set beresp.keep = 60s;   # so that the origin may answer 304
    return (deliver);
}

sub vcl_backend_error {
    if (bereq.retries < 1) { return (retry); }
}

sub vcl_deliver {
    if (resp.status >= 500 && req.http.X-Fresh && req.restarts == 1) {
        unset req.http.X-Fresh;
        set req.http.X-Stale = "1";
        return (restart);
    }
    if (obj.hits == 0) { set resp.http.X-Cache = "MISS"; set req.http.X-Status = "varnish; fwd=miss"; }
    else if (obj.ttl < 0s) { set resp.http.X-Cache = "STALE"; set req.http.X-Status = "varnish; hit; ttl=" + regsub(obj.ttl, "\..*", ""); }
    else { set resp.http.X-Cache = "HIT"; set req.http.X-Status = "varnish; hit; ttl=" + regsub(obj.ttl, "\..*", ""); }
    if (resp.http.Cache-Status) { set resp.http.Cache-Status = resp.http.Cache-Status + ", " + req.http.X-Status; }
    else { set resp.http.Cache-Status = req.http.X-Status; }
    # An answer from here was not the stored request's: it carries the caller's id or none.
    if (obj.hits > 0) {
        unset resp.http.X-Request-ID;
        if (req.http.X-Request-ID ~ "^[A-Za-z0-9._:-]{1,128}$") { set resp.http.X-Request-ID = req.http.X-Request-ID; }
    }
    # A browser counts its own time from now: with our Age, what is fresh for the CDN would be stale to it at once.
    if (resp.http.X-Targeted) { unset resp.http.Age; }
    unset resp.http.X-Targeted;
    unset resp.http.X-SWR;
    unset resp.http.X-SIE;
    unset resp.http.xkey;
    unset resp.http.CDN-Cache-Control;
    unset resp.http.Via;
    unset resp.http.X-Varnish;
}

sub vcl_synth {
    if (req.http.X-Purged) {
        set resp.http.Content-Type = "application/json";
        synthetic({"{"purged": "} + req.http.X-Purged + {"}"});
        return (deliver);
    }
}
