<?php
// What utopia-php/cache does to Redis, by phpredis: a line of words comes in, a line of JSON goes out. Written for this test from what the
// library stores: one hash a key, a field a value with its time, the generation in __utopia_gen__. Needs php-cli and php-redis.

const GENERATION = '__utopia_gen__';
const TOMB = '__utopia_tomb__';

$redis = new Redis();
$redis->connect('127.0.0.1', (int) $argv[1]);
// As the library's own switch: keys and fields are folded unless they are case-sensitive.
$fold = ($argv[2] ?? '') === 'case-sensitive' ? fn (string $name) => $name : strtolower(...);

// Stores a value if the generation still is the one that the caller has seen; an absent one counts as 0.
$save = "local seen = redis.call('HGET', KEYS[1], '" . GENERATION . "') or '0'
    if seen ~= ARGV[3] then return 0 end
    local window = tonumber(ARGV[4])
    local tomb = window > 0 and tonumber(redis.call('HGET', KEYS[1], '" . TOMB . "') or '0') or 0
    local time = redis.call('TIME')
    local left = tomb - (time[1] * 1000000 + time[2])
    if left > 0 and left <= window * 1000 then return 0 end
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
    return 1";
// Takes a key's values away, or one field, counts the generation on as a number of Lua, and stamps the time to hold fills off.
$purge = "local had
    local current = redis.call('HGET', KEYS[1], '" . GENERATION . "')
    if ARGV[1] == '' then
        had = redis.call('HLEN', KEYS[1]) - redis.call('HEXISTS', KEYS[1], '" . GENERATION . "') - redis.call('HEXISTS', KEYS[1], '" . TOMB . "')
        redis.call('DEL', KEYS[1])
    else
        had = redis.call('HDEL', KEYS[1], ARGV[1])
    end
    redis.call('HSET', KEYS[1], '" . GENERATION . "', (tonumber(current) or 0) + 1)
    if tonumber(ARGV[2]) > 0 then
        local time = redis.call('TIME')
        redis.call('HSET', KEYS[1], '" . TOMB . "', time[1] * 1000000 + time[2] + ARGV[2] * 1000)
    end
    return had";

while (($line = fgets(STDIN)) !== false) {
    $words = explode(' ', trim($line));
    $key = $fold($words[1] ?? '');
    $field = $fold($words[2] ?? '');
    switch ($words[0]) {
        case 'generation':
            $seen = $redis->hGet($key, GENERATION);
            $answer = is_string($seen) ? $seen : '0';
            break;
        case 'load':
            $found = $redis->hGet($key, empty($field) ? $key : $field);
            $found = is_string($found) ? json_decode($found, true) : null;
            $answer = is_array($found) && $found['time'] + 60 > time() ? $found['data'] : false;
            break;
        case 'save': // KEY FIELD DATA GENERATION [WINDOW]
            $value = json_encode(['time' => time(), 'data' => $words[3]]);
            $answer = $redis->eval($save, [$key, empty($field) ? $key : $field, $value, $words[4], $words[5] ?? '0'], 1);
            break;
        case 'purge': // KEY [FIELD [WINDOW]]
            $answer = $redis->eval($purge, [$key, empty($field) ? '' : $field, $words[3] ?? '0'], 1);
            break;
        case 'flush':
            $answer = $redis->flushDB();
            break;
        default:
            $answer = 'what?';
    }
    echo json_encode($redis->getLastError() ?? $answer), "\n";
    $redis->clearLastError();
}
