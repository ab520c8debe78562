import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.ArrayDeque;
import java.util.Comparator;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.Collectors;

/** A small JSON service: sessions kept in a map and updated by requests, short-lived objects for each. */
public class Service {
    record Item(long at, double price, String name) {}

    static final ConcurrentHashMap<Long, ArrayDeque<Item>> SESSIONS = new ConcurrentHashMap<>();
    static final AtomicLong SERVED = new AtomicLong();

    static String answer() {
        long request = SERVED.getAndIncrement();
        var items = SESSIONS.computeIfAbsent(request * 2654435761L % 20000, id -> new ArrayDeque<>());
        synchronized (items) {
            items.add(new Item(System.nanoTime(), Math.random(), "item-" + request));
            if (items.size() > 12) items.removeFirst();
            return items.stream().sorted(Comparator.comparingDouble(Item::price))
                .map(item -> String.format("{\"name\":\"%s\",\"price\":%.4f,\"at\":%d}", item.name, item.price, item.at))
                .collect(Collectors.joining(",", "[", "]"));
        }
    }

    public static void main(String[] arguments) throws Exception {
        var server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 64);
        server.createContext("/", exchange -> {
            byte[] body = answer().getBytes();
            exchange.sendResponseHeaders(200, body.length);
            try (var out = exchange.getResponseBody()) {
                out.write(body);
            }
        });
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.start();
    }
}
